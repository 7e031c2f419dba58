"""Decoding of QuIP# linear layers: weights in 2, 3 or 4 bits on the E8 lattice [Tseng et al. 2024, arXiv
2402.04396] to dense float32.

The dense weight of a linear layer of m outputs and n inputs is

    W = diag(SV * Wscale) H_m A H_n^T diag(SU),    then the rows of block b times fuse_scales[b],

where A (m, n) holds the lattice points of the codes ``Qidxs``, and H_n = (M_K (x) S_{n/K}) / sqrt(n) is
orthogonal: M_K is a Hadamard matrix of order K (`tokenbounds.models.quip.hadamard`), S Sylvester's matrix of
a power of two. q, k, v are stored as one layer, and so are up and gate, in this order; everything else is
stored in float16. Codebooks and Hadamard matrices are not in the files.

A checkpoint of 70 billion weights does not fit into memory as float32. `QuipCheckpoint` decodes a layer at a
time, and `QuipLlama` passes a whole batch through a layer before it decodes the next.
"""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from tokenbounds.config.schema.base import checked
from tokenbounds.errors import InputError
from tokenbounds.models.quip.codebooks import e8p_table, e81b_table
from tokenbounds.models.quip.config import (
    CODEBOOKS,
    PACKED_COLUMNS,
    PACKED_ROWS,
    QuipParams,
    check_sizes,
    linear_layout,
)
from tokenbounds.models.quip.hadamard import hadamard_transform
from tokenbounds.models.registry import check_finite

_SLAB = 1 << 20  # weights decoded at a time: they stay in the processor's cache, and temporaries are small
_SAFETENSORS_TYPES = {"F16": torch.float16, "I64": torch.int64}


def unpack_e8p(words):
    """Unpack the codes of an E8P block.

    A word holds four codes: bit 4p + k of the upper half is sign bit p of code k::

        bits     0-7    8-15   16-23  24-31  32 33 34 35    ...   60 61 62 63
        code     0      1      2      3       0  1  2  3           0  1  2  3
        holds    magnitudes (high byte)      sign bit 0     ...   sign bit 7 (low byte)

    Word (R, C, r, g) of the block, seen as (rows / 16, words / 2, 8, 4), describes two rows of 16 columns::

                        columns 64C + 16g to + 7    columns + 8 to + 15
        row 16R + 2r            code 0                    code 2
        row 16R + 2r + 1        code 1                    code 3

    Parameters
    ----------
    words : Tensor of int64, shape (m, n / 32)

    Returns
    -------
    Tensor of int32, shape (m, n / 8)
        Rows of `e8p_table`.
    """
    rows, columns = words.shape
    octets = words.contiguous().view(torch.uint8).reshape(rows // PACKED_ROWS, columns // 2, 8, 4, 8)
    low, *high = octets[..., 4:].int().unbind(-1)
    spread = _sign_spread().to(words.device)
    signs = spread[low]
    for shift, octet in enumerate(high, 1):
        signs |= spread[octet] << 2 * shift
    signs = signs.view(torch.uint8).reshape((*octets.shape[:-1], 4))
    codes = octets[..., :4].int() << 8 | signs.int()  # (R, C, r, g, k)
    codes = codes.unflatten(-1, (2, 2))  # (R, C, r, g, half of the 16 columns, row of the pair)
    return codes.permute(0, 2, 5, 1, 3, 4).reshape(rows, columns * 4)


@functools.cache
def _sign_spread():
    """Tabulate for each byte the int32 whose byte k holds its bits k and 4 + k as bits 0 and 1."""
    octet = np.arange(256, dtype=np.int32)
    return torch.from_numpy(
        sum((octet >> k & 1 | (octet >> 4 + k & 1) << 1) << 8 * k for k in range(4)).astype(np.int32)
    )


def _lattice_points(words, params, inputs):
    """Decode packed codes to A (m, n), float32."""

    def points(codes, table, scale=1.0):
        return F.embedding(codes, torch.tensor(table, device=words.device) / scale).flatten(1)

    first = inputs // 32
    values = points(unpack_e8p(words[:, :first]), e8p_table())
    if params.codebook == "E8P12RVQ4B":
        values += points(unpack_e8p(words[:, first:]), e8p_table(), params.residual_scale)
    elif params.codebook == "E8P12RVQ3B":
        values += points(
            words[:, first:].contiguous().view(torch.uint8).int(), e81b_table(), params.residual_scale
        )
    return values


def dequantize(tensors, quip_params, fuse_sizes=None, where="quantized linear"):
    """Decode the dense weight of one quantized linear.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        Exactly these, all on one device:

        ===============  =======  ============================================================
        ``Qidxs``        int64    (m, n/32), (m, 3n/64) or (m, n/16) for 2, 3, 4 bits
        ``SU``           float16  (n,)
        ``SV``           float16  (m,)
        ``Wscale``       float16  ()
        ``codebook_id``  int64    ()
        ``fuse_scales``  float16  (blocks,), if and only if `fuse_sizes` is given
        ``scaleWH``      float16  (n,), if and only if ``rescale_WH``; columns are divided by it
        ===============  =======  ============================================================
    quip_params : dict or QuipParams
        ``quip_params`` of the checkpoint's config.json.
    fuse_sizes : sequence of int, optional
        Rows of each fused block; their sum is m.
    where : str
        Name of the layer, for errors.

    Returns
    -------
    Tensor of float32, shape (m, n)
        On the device of the tensors, computed in float32.

    Raises
    ------
    InputError
        Parameters that need another decoder; a tensor that is missing, unexpected, of another type or shape,
        or not finite; a width that is no multiple of 16 (outputs) or 64 (inputs), or that has no Hadamard
        matrix; a codebook_id of another codebook.
    """
    params = checked(QuipParams, quip_params, f"{where}: quip_params")
    for name in ("SU", "SV"):
        if name not in tensors or tensors[name].ndim != 1:
            shape = list(tensors[name].shape) if name in tensors else "none"
            raise InputError(f"{where}: tensor '{name}' has shape {shape}, expected one dimension")
    outputs, inputs = len(tensors["SV"]), len(tensors["SU"])
    check_sizes(outputs, inputs, where)
    if fuse_sizes is not None and sum(fuse_sizes) != outputs:
        raise InputError(
            f"{where}: fuse_sizes {list(fuse_sizes)} add up to {sum(fuse_sizes)}, "
            f"expected the {outputs} rows of SV"
        )
    layout = linear_layout(params, outputs, inputs, fuse_sizes)
    types = {dtype: name for name, dtype in _SAFETENSORS_TYPES.items()}
    given = {
        name: (types.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    check_layout(given, layout, where)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            check_finite(where, name, tensor)
    expected_id = CODEBOOKS[params.codebook, params.codebook_version].id
    if int(tensors["codebook_id"]) != expected_id:
        raise InputError(
            f"{where}: codebook_id {int(tensors['codebook_id'])}, "
            f"expected {expected_id} for {params.codebook}"
        )

    column_scale, row_scale = tensors["SU"].double(), tensors["SV"].double() * tensors["Wscale"].double()
    if params.rescale_WH:
        if not tensors["scaleWH"].all():
            raise InputError(
                f"{where}: tensor 'scaleWH' holds a zero, expected none: columns are divided by it"
            )
        column_scale = column_scale / tensors["scaleWH"].double()
    if fuse_sizes is not None:
        sizes = torch.tensor(list(fuse_sizes), device=row_scale.device)
        row_scale = row_scale * tensors["fuse_scales"].double().repeat_interleave(sizes)
    column_scale, row_scale = column_scale.float(), row_scale.float()[:, None]  # (n,), (m, 1)
    dense = torch.empty(outputs, inputs, device=row_scale.device)
    step = max(1, _SLAB // (inputs * PACKED_ROWS)) * PACKED_ROWS
    for i in range(0, outputs, step):
        points = _lattice_points(tensors["Qidxs"][i : i + step], params, inputs)
        dense[i : i + step] = hadamard_transform(points.T).T * column_scale  # A H_n^T diag(SU)
    step = max(PACKED_COLUMNS, _SLAB // outputs)
    for j in range(0, inputs, step):
        # diag(SV * Wscale) H_m and fuse_scales, from the left
        dense[:, j : j + step] = hadamard_transform(dense[:, j : j + step]) * row_scale
    return dense


def check_layout(stored, expected, where):
    """Compare the tensors of a checkpoint with those expected.

    Parameters
    ----------
    stored, expected : dict of str to (str, tuple of int)
        Type and shape of each tensor, by name.
    where : path or str
        Source of the tensors, for errors.

    Raises
    ------
    InputError
        They differ; one line names the first difference.
    """
    for problem, names in (
        ("is missing", expected.keys() - stored.keys()),
        ("is not one of the model's", stored.keys() - expected.keys()),
    ):
        if names:
            raise InputError(
                f"{where}: tensor '{min(names)}' {problem}; "
                f"expected exactly the {len(expected)} tensors of its config"
            )
    for name, (dtype, shape) in expected.items():
        if stored[name] != (dtype, shape):
            kind, size = stored[name]
            raise InputError(
                f"{where}: tensor '{name}' is {kind} of shape {list(size)}, "
                f"expected {dtype} of shape {list(shape)}"
            )
