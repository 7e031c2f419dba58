"""QuIP# checkpoints: LLaMA weights in 2, 3 or 4 bits on the E8 lattice [Tseng et al. 2024, arXiv 2402.04396], decoded and run in float32.

The dense weight of a linear layer of m outputs and n inputs is

    W = diag(SV * Wscale) H_m A H_n^T diag(SU),    then the rows of block b times fuse_scales[b],

where A (m, n) holds the lattice points that the codes ``Qidxs`` stand for and H_n = (M_K (x) S_{n/K}) / sqrt(n) is orthogonal: M_K is a
Hadamard matrix of order K (`hadamard`), S Sylvester's matrix of a power of two. q, k, v are stored as one layer, and so are up and gate, in
this order; everything else is stored in float16. Codebooks and Hadamard matrices are not in the files: they are built here from their
definitions.

A checkpoint of 70 billion weights does not fit into memory as float32. `QuipCheckpoint` decodes a layer at a time, and `QuipLlama` takes a
whole batch through a layer before it decodes the next.
"""

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import nn

from tokenbounds.errors import InputError
from tokenbounds.files import read_json
from tokenbounds.models import CONFIG_FILE, WEIGHTS_FILE, check_finite, checked
from tokenbounds.sections import Section

INDEX_FILE = "model.safetensors.index.json"

# Orders of Hadamard matrices, in the order in which a width is tried for a divisor.
HADAMARD_ORDERS = (172, 156, 140, 124, 116, 108, 60, 52, 36, 28, 20, 12)
_PALEY_2_ORDERS = (28, 36)
# First halves x[0..(t-1)/2] of the symmetric rows of the four circulant blocks A, B, C, D [Williamson 1944]: found by search, no formula.
_WILLIAMSON = {
    52: ("+-+--++", "+---+++", "++-+--+", "+----+-"),
    116: ("++--+--+-+++-++", "++++-++-+---+++", "+-+---++--+-+++", "+++---++--+-+--"),
    124: ("+--+++-+--+----+", "+--+++-+--+----+", "+-----+++-+-+--+", "++++++---+-+-++-"),
    156: ("+++--+-+-----+--++--", "++++---+--++----+-+-", "+++--++-+---+-+--+--", "+---++-+-+-----+++-+"),
    172: ("+---++--++++-+-+++-++-", "++-++++++----+-+--++-+", "+++-+-++--+-+-++++-+--", "++---++++-+--+--++----"),
}
_SLAB = 1 << 20  # weights decoded at a time: they stay in the processor's cache, and temporaries are small
_SYLVESTER_BLOCK = 16  # as one matrix product: more arithmetic than four butterflies of two, but one pass over memory in place of four

# The 29 magnitudes of squared norm 12 that complete the E8P codebook: positions of the three 1/2 among five 3/2.
_E8P_HALVES = "123023013012367357347356346345267257247256246245167157147156146045067057047056046014237"
_E8P_COORDINATES = [0, 2, 4, 6, 1, 3, 5, 7]  # that the sign bits 0..7 belong to
_ROWS, _COLUMNS = 16, 64  # of a packed block: every layer has a multiple of these

_PART_TOKENS = 8192  # that a decoder layer takes at a time: the MLP of 8192 tokens at width 28672 holds 3 GB

_SAFETENSORS_TYPES = {"F16": torch.float16, "I64": torch.int64}


# ---------------------------------------------------------------- configuration


@dataclasses.dataclass(frozen=True)
class _Codebook:
    """How a codebook is packed: its id, int64 words per 64 weights, default scale of the second stage."""

    id: int
    words: int
    residual_scale: float | None = None


_CODEBOOKS = {
    ("E8P12", 1): _Codebook(7, 2),
    ("E8P12RVQ3B", 0): _Codebook(18, 3, 2.04),
    ("E8P12RVQ4B", 1): _Codebook(17, 4, 3.45),
}


class QuipParams(Section):
    """The key ``quip_params`` of a checkpoint's config.json. Whatever would need another decoder is refused."""

    codebook: str = Field(description="Name of the codebook.")
    codebook_version: int | None = Field(None, description="Its version; files without one are packed in another way.")
    resid_scale_override: float = Field(-1, allow_inf_nan=False, description="Scale of the second stage, or -1: the codebook's.")
    rescale_WH: bool = Field(False, description="Whether each layer has a tensor scaleWH that its columns are divided by.")
    lora_rank: Literal[0] = Field(0, description="Rank of a low-rank correction.")
    outlier_channel_split: Literal[False] = Field(False, description="Whether input channels are duplicated.")
    fused: Literal[True] = Field(True, description="Whether q, k, v and up, gate are stored as one layer each.")
    pack_out: Literal[False] = Field(False, description="Whether the codes run along the outputs.")
    train_mode: Literal[False] = Field(False, description="Whether the file is an intermediate one of fine-tuning.")
    model_version: Literal[1] = Field(1, description="Version of the file layout.")
    codesz: Literal[8] = Field(8, description="Weights per code.")
    idx_dtype: Literal["torch.int64"] = Field("torch.int64", description="Type of the packed codes.")
    packsz: float | None = Field(None, description="Plays no part: the shapes say it.")

    @model_validator(mode="after")
    def _check(self):
        if (self.codebook, self.codebook_version) not in _CODEBOOKS:
            known = ", ".join(f"{name} version {version}" for name, version in _CODEBOOKS)
            raise ValueError(f"codebook {self.codebook} version {self.codebook_version} is not known; expected one of {known}")
        if self.resid_scale_override <= 0 and self.resid_scale_override != -1:
            raise ValueError(f"resid_scale_override {self.resid_scale_override} is neither positive nor -1")
        return self

    @property
    def residual_scale(self):
        """What the second stage is divided by."""
        default = _CODEBOOKS[self.codebook, self.codebook_version].residual_scale
        return self.resid_scale_override if self.resid_scale_override > 0 else default


class QuipConfig(BaseModel):
    """The config.json of a checkpoint: the keys that decide a prediction. Others (dtype, cache, versions) are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: Literal["llama"] = Field(description="Model family of the Hugging Face hub.")
    hidden_size: PositiveInt = Field(description="Width of the residual stream.")
    intermediate_size: PositiveInt = Field(description="Width inside the MLP.")
    num_hidden_layers: PositiveInt = Field(description="Decoder layers.")
    num_attention_heads: PositiveInt = Field(description="Attention heads.")
    num_key_value_heads: PositiveInt | None = Field(None, description="Heads of keys and values; absent in LLaMA-1: as many as above.")
    vocab_size: PositiveInt = Field(description="Number of tokens.")
    max_position_embeddings: PositiveInt = Field(2048, description="Longest input in tokens.")
    rms_norm_eps: PositiveFloat = Field(description="Added to the mean square in the norms.")
    rope_theta: PositiveFloat = Field(10000.0, description="Base of the rotary embedding.")
    quip_params: QuipParams = Field(description="How the weights are quantized.")

    # What no published checkpoint has and would change predictions.
    hidden_act: Literal["silu"] = "silu"
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    tie_word_embeddings: Literal[False] = False
    rope_scaling: None = None
    rope_parameters: None = None
    head_dim: PositiveInt | None = None

    @model_validator(mode="after")
    def _check(self):
        heads, kv_heads = self.num_attention_heads, self.kv_heads
        if self.hidden_size % (2 * heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not an even multiple of num_attention_heads {heads}")
        if heads % kv_heads:
            raise ValueError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
        if self.head_dim not in (None, self.hidden_size // heads):
            raise ValueError(f"head_dim {self.head_dim} is not hidden_size / num_attention_heads = {self.hidden_size // heads}")
        try:
            for linear in self.linears():
                _check_sizes(linear.outputs, linear.inputs, linear.name)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def kv_heads(self):
        """Number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    def linears(self):
        """The quantized linears of a layer, a list of `Linear`."""
        width, inner = self.hidden_size, self.intermediate_size
        kv_width = width // self.num_attention_heads * self.kv_heads
        return [
            Linear("self_attn.qkv_proj", ("q_proj", "k_proj", "v_proj"), (width, kv_width, kv_width), width),
            Linear("self_attn.o_proj", ("o_proj",), (width,), width),
            Linear("mlp.upgate_proj", ("up_proj", "gate_proj"), (inner, inner), width),
            Linear("mlp.down_proj", ("down_proj",), (width,), inner),
        ]

    def layout(self):
        """Safetensors type and shape of every tensor of the checkpoint, by name."""
        width = self.hidden_size
        expected = {
            "model.embed_tokens.weight": ("F16", (self.vocab_size, width)),
            "model.norm.weight": ("F16", (width,)),
            "lm_head.weight": ("F16", (self.vocab_size, width)),
        }
        for i, norm in itertools.product(range(self.num_hidden_layers), _NORMS):
            expected[f"model.layers.{i}.{norm}.weight"] = ("F16", (width,))
        for i, linear in itertools.product(range(self.num_hidden_layers), self.linears()):
            for part, entry in _linear_layout(self.quip_params, linear.outputs, linear.inputs, linear.blocks).items():
                expected[f"model.layers.{i}.{linear.name}.{part}"] = entry
        return expected


_NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclasses.dataclass(frozen=True)
class Linear:
    """A quantized linear as stored: `sizes` rows for each of `names`, on `inputs` columns."""

    name: str
    names: tuple
    sizes: tuple
    inputs: int

    @property
    def outputs(self):
        """Number of rows."""
        return sum(self.sizes)

    @property
    def blocks(self):
        """Rows of each fused block, or None where there is one only."""
        return self.sizes if len(self.sizes) > 1 else None


def _linear_layout(params, outputs, inputs, fuse_sizes):
    """Type and shape of each tensor of a quantized linear, by name."""
    words = _CODEBOOKS[params.codebook, params.codebook_version].words
    layout = {
        "Qidxs": ("I64", (outputs, inputs * words // _COLUMNS)),
        "SU": ("F16", (inputs,)),
        "SV": ("F16", (outputs,)),
        "Wscale": ("F16", ()),
        "codebook_id": ("I64", ()),
    }
    if fuse_sizes is not None:
        layout["fuse_scales"] = ("F16", (len(fuse_sizes),))
    if params.rescale_WH:
        layout["scaleWH"] = ("F16", (inputs,))
    return layout


def _check_sizes(outputs, inputs, where):
    for name, size, multiple in (("output", outputs, _ROWS), ("input", inputs, _COLUMNS)):
        if size % multiple or size < 1:
            raise InputError(f"{where}: {name} width {size} is not a multiple of {multiple}")
        try:
            hadamard_order(size)
        except InputError as error:
            raise InputError(f"{where}: {name} {error}") from None


# ---------------------------------------------------------------- codebooks


def _read_only(array):
    array.flags.writeable = False
    return array


@functools.cache
def e8p_table():
    """The E8P codebook: the lattice E8 shifted by 1/4, 16 bits for 8 weights.

    Code c has the row c >> 8 of 256 magnitudes (all of {1/2, 3/2, 5/2}^8 with squared norm <= 10, and 29 of squared norm 12) and, in its
    low byte, seven free signs; the eighth follows from the parity, and the remaining bit says whether 1/4 is added or subtracted.

    Returns
    -------
    ndarray of float32, shape (65536, 8)
        Odd multiples of 1/4, at most 2.75 in magnitude. Read-only.
    """
    doubled = np.array(list(itertools.product((1, 3, 5), repeat=8)))
    small = doubled[(doubled**2).sum(axis=1) <= 40]
    halves = np.array([int(digit) for digit in _E8P_HALVES]).reshape(-1, 3)
    large = np.full((len(halves), 8), 3)
    np.put_along_axis(large, halves, 1, axis=1)
    magnitudes = np.concatenate([small, large])
    odd = magnitudes.sum(axis=1) // 2 % 2 == 1
    magnitudes[odd, 7] *= -1

    signs = np.arange(256)
    parity = (signs[:, None] >> np.arange(8) & 1).sum(axis=1) % 2
    bits = (signs ^ parity)[:, None] >> np.arange(8) & 1
    flips = np.empty((256, 8), dtype=int)
    flips[:, _E8P_COORDINATES] = 1 - 2 * bits
    quarters = 2 * magnitudes[:, None] * flips + (1 - 2 * parity)[:, None]  # (256 magnitudes, 256 signs, 8)
    return _read_only((quarters.reshape(-1, 8) / 4).astype(np.float32))


@functools.cache
def e81b_table():
    """The second stage of the 3-bit codebook: 256 short vectors of E8, 8 bits for 8 weights.

    Returns
    -------
    ndarray of float32, shape (256, 8)
        Multiples of 1/2. Read-only.
    """
    integers = np.array([v for v in itertools.product((-1, 0, 1), repeat=8) if sum(v) % 2 == 0 and np.dot(v, v) <= 2])
    halves = np.array([v for v in itertools.product((-0.5, 0.5), repeat=8) if sum(v) % 2 == 0])
    axes = 2 * np.concatenate([np.eye(8), -np.eye(8)[:7]])
    return _read_only(np.concatenate([integers, halves, axes]).astype(np.float32))


# ---------------------------------------------------------------- Hadamard matrices


@functools.cache
def hadamard(order):
    """The Hadamard matrix M_K of the format: Paley's first construction, his second (28, 36) [1933], or Williamson's (52 and above) [1944].

    Parameters
    ----------
    order : int
        One of `HADAMARD_ORDERS`.

    Returns
    -------
    ndarray of int8, shape (order, order)
        Entries +-1, M M^T = order * I; in general not symmetric. Read-only.
    """
    if order not in HADAMARD_ORDERS:
        raise InputError(f"Hadamard order {order} is not known; expected one of {', '.join(map(str, HADAMARD_ORDERS))}")
    if order in _WILLIAMSON:
        a, b, c, d = (_circulant([1 if sign == "+" else -1 for sign in half + half[:0:-1]]) for half in _WILLIAMSON[order])
        matrix = np.block([[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]])
    elif order in _PALEY_2_ORDERS:
        core = _residues(order // 2 - 1)
        conference = np.block([[np.zeros((1, 1)), np.ones((1, len(core)))], [np.ones((len(core), 1)), core]])
        identity = np.eye(order // 2)
        matrix = np.block([[conference + identity, conference - identity], [conference - identity, -conference - identity]])
    else:
        matrix = np.ones((order, order))
        matrix[0, 1:] = -1
        matrix[1:, 1:] = np.eye(order - 1) - _residues(order - 1)
    return _read_only(matrix.astype(np.int8))


def _circulant(row):
    return scipy.linalg.circulant(row).T  # X[i, j] = row[j - i]


def _residues(q):
    """Q[i, j] = 1, -1 or 0 as j - i is a nonzero square modulo the prime q, none, or zero."""
    squares = {i * i % q for i in range(1, q)}
    return _circulant([0] + [1 if i in squares else -1 for i in range(1, q)])


def hadamard_order(size):
    """The K of H_size: 1 for a power of two, else the first of `HADAMARD_ORDERS` that divides; the cofactor must be a power of two."""
    order = next((K for K in HADAMARD_ORDERS if size % K == 0), 1)
    if not _is_power_of_two(size // order):
        raise InputError(f"width {size} has no Hadamard matrix: {size // order} (= {size} / {order}) is not a power of two")
    return order


def _is_power_of_two(n):
    return n > 0 and n & (n - 1) == 0


def hadamard_transform(x):
    """H_n x, with H_n = (M_K (x) S_{n/K}) / sqrt(n) never formed.

    Parameters
    ----------
    x : Tensor of floating point, shape (n, columns)

    Returns
    -------
    Tensor
        Of the same type, shape and device.

    Raises
    ------
    InputError
        There is no H_n (see `hadamard_order`).
    """
    n, columns = x.shape
    order = hadamard_order(n)
    remaining, inner = n // order, columns
    while remaining > 1:  # S_ab = S_a (x) S_b: a block at a time, from the last
        size = min(remaining, _SYLVESTER_BLOCK)
        block = torch.from_numpy(scipy.linalg.hadamard(size)).to(x)
        batch = x.reshape(-1, size, inner)
        x = torch.bmm(block.expand(len(batch), size, size), batch)
        remaining, inner = remaining // size, inner * size
    if order > 1:
        x = torch.tensor(hadamard(order)).to(x) @ x.reshape(order, inner)
    return x.reshape(n, columns) / math.sqrt(n)


# ---------------------------------------------------------------- one linear


def unpack_e8p(words):
    """Codes of an E8P block.

    A word holds four codes: the low four bytes are their magnitudes, bit 4p + k of the upper 32 is sign bit p of code k. Word
    (R, C, r, g) of the block seen as (rows / 16, words / 2, 8, 4) describes two rows, 16R + 2r and the next, and columns 64C + 16g to
    64C + 16g + 15: codes 0, 2 the upper row, codes 1, 3 the lower.

    Parameters
    ----------
    words : Tensor of int64, shape (m, n / 32)

    Returns
    -------
    Tensor of int32, shape (m, n / 8)
        Rows of `e8p_table`.
    """
    rows, columns = words.shape
    octets = words.contiguous().view(torch.uint8).reshape(rows // _ROWS, columns // 2, 8, 4, 8)
    low, *high = octets[..., 4:].int().unbind(-1)
    spread = _sign_spread().to(words.device)
    signs = spread[low]
    for shift, octet in enumerate(high, 1):
        signs |= spread[octet] << 2 * shift
    signs = signs.view(torch.uint8).reshape((*octets.shape[:-1], 4))
    codes = octets[..., :4].int() << 8 | signs.int()  # (R, C, r, g, k)
    codes = codes.unflatten(-1, (2, 2)).permute(0, 2, 5, 1, 3, 4)  # (R, r, row of the pair, C, g, half of the 16 columns)
    return codes.reshape(rows, columns * 4)


@functools.cache
def _sign_spread():
    """For a byte with bits k and 4 + k: an int32 whose byte k has them at its bits 0 and 1."""
    octet = np.arange(256, dtype=np.int32)
    return torch.from_numpy(sum((octet >> k & 1 | (octet >> 4 + k & 1) << 1) << 8 * k for k in range(4)).astype(np.int32))


def _lattice_points(words, params, inputs):
    """A (m, n) float32 of packed codes."""

    def points(codes, table, scale=1.0):
        return F.embedding(codes, torch.tensor(table, device=words.device) / scale).flatten(1)

    first = inputs // 32
    values = points(unpack_e8p(words[:, :first]), e8p_table())
    if params.codebook == "E8P12RVQ4B":
        values += points(unpack_e8p(words[:, first:]), e8p_table(), params.residual_scale)
    elif params.codebook == "E8P12RVQ3B":
        values += points(words[:, first:].contiguous().view(torch.uint8).int(), e81b_table(), params.residual_scale)
    return values


def dequantize(tensors, quip_params, fuse_sizes=None, where="quantized linear"):
    """Dense weight of one quantized linear.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        ``Qidxs`` int64 (m, n/32), (m, 3n/64) or (m, n/16) for 2, 3, 4 bits; float16 ``SU`` (n,), ``SV`` (m,), ``Wscale`` (); int64
        ``codebook_id`` (); float16 ``fuse_scales`` (blocks,) if and only if `fuse_sizes` is given, ``scaleWH`` (n,) if and only if
        ``rescale_WH``. All on one device.
    quip_params : dict or QuipParams
        ``quip_params`` of the checkpoint's config.json.
    fuse_sizes : sequence of int, optional
        Rows of each fused block; their sum is m.
    where : str
        For errors.

    Returns
    -------
    Tensor of float32, shape (m, n)
        On the device of the tensors, computed in float32.

    Raises
    ------
    InputError
        Parameters that need another decoder; a tensor that is missing, unexpected, of another type or shape, or not finite; a width that
        is no multiple of 16 (outputs) or 64 (inputs), or that has no Hadamard matrix; a codebook_id of another codebook.
    """
    params = checked(QuipParams, quip_params, f"{where}: quip_params")
    for name in ("SU", "SV"):
        if name not in tensors or tensors[name].ndim != 1:
            found = list(tensors[name].shape) if name in tensors else "none"
            raise InputError(f"{where}: tensor '{name}' has shape {found}, expected one dimension")
    outputs, inputs = len(tensors["SV"]), len(tensors["SU"])
    _check_sizes(outputs, inputs, where)
    if fuse_sizes is not None and sum(fuse_sizes) != outputs:
        raise InputError(f"{where}: fuse_sizes {list(fuse_sizes)} add up to {sum(fuse_sizes)}, expected the {outputs} rows of SV")
    layout = _linear_layout(params, outputs, inputs, fuse_sizes)
    types = {dtype: name for name, dtype in _SAFETENSORS_TYPES.items()}
    found = {name: (types.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape)) for name, tensor in tensors.items()}
    _check_layout(found, layout, where)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            check_finite(where, name, tensor)
    expected_id = _CODEBOOKS[params.codebook, params.codebook_version].id
    if int(tensors["codebook_id"]) != expected_id:
        raise InputError(f"{where}: codebook_id {int(tensors['codebook_id'])}, expected {expected_id} for {params.codebook}")

    column_scale, row_scale = tensors["SU"].double(), tensors["SV"].double() * tensors["Wscale"].double()
    if params.rescale_WH:
        if not tensors["scaleWH"].all():
            raise InputError(f"{where}: tensor 'scaleWH' holds a zero, expected none: columns are divided by it")
        column_scale = column_scale / tensors["scaleWH"].double()
    if fuse_sizes is not None:
        sizes = torch.tensor(list(fuse_sizes), device=row_scale.device)
        row_scale = row_scale * tensors["fuse_scales"].double().repeat_interleave(sizes)
    column_scale, row_scale = column_scale.float(), row_scale.float()[:, None]  # (n,), (m, 1)
    dense = torch.empty(outputs, inputs, device=row_scale.device)
    step = max(1, _SLAB // (inputs * _ROWS)) * _ROWS
    for i in range(0, outputs, step):
        points = _lattice_points(tensors["Qidxs"][i : i + step], params, inputs)
        dense[i : i + step] = hadamard_transform(points.T).T * column_scale  # A H_n^T diag(SU)
    step = max(_COLUMNS, _SLAB // outputs)
    for j in range(0, inputs, step):
        dense[:, j : j + step] = hadamard_transform(dense[:, j : j + step]) * row_scale  # the rest, from the left
    return dense


def _check_layout(found, expected, where):
    """Both dictionaries: name to (type, shape). One line names the first difference."""
    for problem, names in (("is missing", expected.keys() - found.keys()), ("is not one of the model's", found.keys() - expected.keys())):
        if names:
            raise InputError(f"{where}: tensor '{min(names)}' {problem}; expected exactly the {len(expected)} tensors of its config")
    for name, (dtype, shape) in expected.items():
        if found[name] != (dtype, shape):
            raise InputError(
                f"{where}: tensor '{name}' is {found[name][0]} of shape {list(found[name][1])}, expected {dtype} of shape {list(shape)}"
            )


# ---------------------------------------------------------------- whole checkpoints


class QuipCheckpoint:
    """A QuIP# checkpoint in a folder, decoded a layer at a time.

    The files are those that ``model.safetensors.index.json`` names, or ``model.safetensors`` where there is no index: a folder may hold
    shards of an older generation beside them. Names, types and shapes of all tensors are checked against config.json before any is read.

    Parameters
    ----------
    folder : path
    resident : bool
        Keep the packed tensors of the layers in memory, on the device where they were last asked for; else read them from disk each time.

    Attributes
    ----------
    config : QuipConfig
    files : list of Path
        Everything that was or will be read: the configuration, the index if any, the weights.

    Raises
    ------
    InputError
        A file is absent, torn or no safetensors file; the configuration is not one of a QuIP# LLaMA, or needs another decoder; a tensor is
        missing, unexpected, in another shard than the index says, or of another type or shape.
    """

    def __init__(self, folder, resident=False):
        folder = Path(folder)
        self.config = checked(QuipConfig, read_json(folder / CONFIG_FILE), folder / CONFIG_FILE)
        self.resident, self._kept = resident, {}
        index = folder / INDEX_FILE
        shards = _read_index(index) if index.exists() else None
        names = sorted(set(shards.values())) if shards else [WEIGHTS_FILE]
        self.files = [folder / CONFIG_FILE, *([index] if shards else []), *(folder / name for name in names)]
        self._handle_of, found = {}, {}
        for name in names:
            handle = _open(folder / name)
            present = set(handle.keys())
            wanted = {tensor for tensor, shard in shards.items() if shard == name} if shards else present
            if wanted - present:
                raise InputError(f"{folder / name}: tensor '{min(wanted - present)}' is missing, expected there by {index.name}")
            for tensor in wanted:
                entry = handle.get_slice(tensor)
                self._handle_of[tensor] = handle
                found[tensor] = (entry.get_dtype(), tuple(entry.get_shape()))
        self._where = index if shards else folder / WEIGHTS_FILE
        _check_layout(found, self.config.layout(), self._where)

    def tensor(self, name):
        """A stored tensor as it is, on the CPU."""
        return self._handle_of[name].get_tensor(name)

    def weights(self, name, device="cpu"):
        """A float16 tensor as finite float32, on `device`."""
        tensor = self.tensor(name).to(device, torch.float32)
        check_finite(self._where, name, tensor)
        return tensor

    def layer(self, i, device="cpu"):
        """Dense float32 weights of decoder layer `i`, in the layout of a Hugging Face LLaMA.

        Parameters
        ----------
        i : int
        device : torch.device or str
            Where to decode, and where the result is.

        Returns
        -------
        dict of str to Tensor
            q_proj, k_proj, v_proj, o_proj, up_proj, gate_proj, down_proj (out, in); input_layernorm, post_attention_layernorm (width,).
        """
        prefix = f"model.layers.{range(self.config.num_hidden_layers)[i]}"
        dense = {norm: self.weights(f"{prefix}.{norm}.weight", device) for norm in _NORMS}
        params = self.config.quip_params
        for linear in self.config.linears():
            name = f"{prefix}.{linear.name}"
            parts = _linear_layout(params, linear.outputs, linear.inputs, linear.blocks)
            packed = {part: self._packed(f"{name}.{part}", device) for part in parts}
            weight = dequantize(packed, params, linear.blocks, f"{self._where}: {name}")
            dense.update(zip(linear.names, weight.split(linear.sizes), strict=True))
        return dense

    def _packed(self, name, device):
        if not self.resident:
            return self.tensor(name).to(device)
        kept = self._kept.get(name)
        # A copy: what is read from a file can be a view of it, whose pages the system may drop.
        self._kept[name] = self.tensor(name).to(device, copy=True) if kept is None else kept.to(device)
        return self._kept[name]


def _read_index(path):
    """File name of each tensor, from an index file."""
    index = read_json(path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{path}: no weight_map, expected a file name for each tensor")
    for name in shards.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise InputError(f"{path}: {name!r} is not the name of a .safetensors file in the same folder")
    return shards


def _open(path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


class QuipLlama(nn.Module):
    """A QuIP# LLaMA that runs in float32 while one decoder layer at a time is dense.

    Each call of `hidden` decodes every layer once, so the more tokens a batch has, the less the decoding costs per token.

    Parameters
    ----------
    checkpoint : QuipCheckpoint
    vocab_size : int, optional
        Number of tokens that are predicted, where the checkpoint has more rows.

    Notes
    -----
    Embedding, last norm and head are dense parameters; layers are decoded on the device these were moved to.
    """

    Config = QuipConfig

    def __init__(self, checkpoint, vocab_size=None):
        super().__init__()
        # Here, because it takes seconds that decoding alone need not spend.
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.vocab_size = vocab_size or checkpoint.config.vocab_size
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings", "rms_norm_eps")
        shape = LlamaConfig(
            **{name: getattr(self.config, name) for name in names},
            num_hidden_layers=self.config.num_hidden_layers,
            num_key_value_heads=self.config.kv_heads,
            rope_parameters={"rope_type": "default", "rope_theta": self.config.rope_theta},
            attn_implementation="sdpa",
        )
        self.embedding = nn.Embedding.from_pretrained(checkpoint.weights("model.embed_tokens.weight"))
        self.rotary = LlamaRotaryEmbedding(shape)
        with torch.device("meta"):
            self.final_norm = LlamaRMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
            self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
            layer = LlamaDecoderLayer(shape, 0).eval()
        self.final_norm.weight = _frozen(checkpoint.weights("model.norm.weight"))
        self.lm_head.weight = _frozen(checkpoint.weights("lm_head.weight"))
        self._layer = (layer,)  # in a tuple, so that it is no submodule: it never has weights of its own
        modules = {name.rpartition(".")[2]: name for name, module in layer.named_modules() if list(module.parameters(recurse=False))}
        self._parameter_names = {short: f"{name}.weight" for short, name in modules.items()}

    def layout(self):
        """(name, shape) of every tensor of the checkpoint."""
        return [(name, shape) for name, (_, shape) in self.config.layout().items()]

    @torch.no_grad()
    def hidden(self, ids):
        """Final normalised states (B, T, W), float32, of `ids` (B, T): the state at t has seen ids[:, : t + 1]."""
        T = ids.shape[1]
        if self.config.max_position_embeddings < T:
            raise InputError(f"a sequence of {T} tokens is longer than the model's {self.config.max_position_embeddings} positions")
        x = self.embedding(ids)  # (B, T, W)
        positions = torch.arange(T, device=ids.device)[None]
        rotation = self.rotary(x, positions)
        for i in range(self.config.num_hidden_layers):
            self._apply_layer(i, x, {"attention_mask": None, "position_ids": positions, "position_embeddings": rotation})  # no mask: causal
        return self.final_norm(x)

    def _apply_layer(self, i, x, options):
        """Overwrite x (B, T, W) with the output of decoder layer i, whose dense weights live no longer than this call."""
        weights = {self._parameter_names[name]: tensor for name, tensor in self.checkpoint.layer(i, x.device).items()}
        for part in x.split(max(1, _PART_TOKENS // x.shape[1])):
            part.copy_(torch.func.functional_call(self._layer[0], weights, (part,), options))

    def head(self, hidden):
        """Logits (..., V) of states (..., W), computed in float32 even under autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.lm_head(hidden.float())[..., : self.vocab_size]


def _frozen(tensor):
    return nn.Parameter(tensor, requires_grad=False)
