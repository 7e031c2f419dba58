"""The configuration of a QuIP# checkpoint, and the names, types and shapes of its tensors."""

import dataclasses
import itertools
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.config.schema import Section
from tokenbounds.errors import InputError
from tokenbounds.models.quip.hadamard import hadamard_order

PACKED_ROWS, PACKED_COLUMNS = 16, 64  # size of a packed block: outputs and inputs are multiples of these


@dataclasses.dataclass(frozen=True)
class _Codebook:
    """Packing of a codebook: its id, int64 words per 64 weights, and default scale of the second stage."""

    id: int
    words: int
    residual_scale: float | None = None


CODEBOOKS = {
    ("E8P12", 1): _Codebook(7, 2),
    ("E8P12RVQ3B", 0): _Codebook(18, 3, 2.04),
    ("E8P12RVQ4B", 1): _Codebook(17, 4, 3.45),
}


class QuipParams(Section):
    """The key ``quip_params`` of a checkpoint's config.json; values that need another decoder are invalid."""

    codebook: str = Field(description="Name of the codebook.")
    codebook_version: int | None = Field(
        None, description="Version of the codebook; files without one are packed in another way."
    )
    resid_scale_override: float = Field(
        -1, allow_inf_nan=False, description="Scale of the second stage, or -1: the codebook's."
    )
    rescale_WH: bool = Field(
        False, description="Division of each layer's columns by a tensor scaleWH, or none."
    )
    lora_rank: Literal[0] = Field(0, description="Rank of a low-rank correction.")
    outlier_channel_split: Literal[False] = Field(False, description="Duplication of input channels.")
    fused: Literal[True] = Field(True, description="Storage of q, k, v and of up, gate as one layer each.")
    pack_out: Literal[False] = Field(False, description="Packing of the codes along the outputs.")
    train_mode: Literal[False] = Field(False, description="Intermediate file of fine-tuning.")
    model_version: Literal[1] = Field(1, description="Version of the file layout.")
    codesz: Literal[8] = Field(8, description="Weights per code.")
    idx_dtype: Literal["torch.int64"] = Field("torch.int64", description="Type of the packed codes.")
    packsz: float | None = Field(None, description="Packing ratio; not used, because the shapes give it.")

    @model_validator(mode="after")
    def _check(self):
        if (self.codebook, self.codebook_version) not in CODEBOOKS:
            known = ", ".join(f"{name} version {version}" for name, version in CODEBOOKS)
            raise ValueError(
                f"codebook {self.codebook} version {self.codebook_version} is not known; "
                f"expected one of {known}"
            )
        if self.resid_scale_override <= 0 and self.resid_scale_override != -1:
            raise ValueError(f"resid_scale_override {self.resid_scale_override} is neither positive nor -1")
        return self

    @property
    def residual_scale(self):
        """Number that the second stage is divided by."""
        default = CODEBOOKS[self.codebook, self.codebook_version].residual_scale
        return self.resid_scale_override if self.resid_scale_override > 0 else default


class QuipConfig(BaseModel):
    """The config.json of a checkpoint: the keys that affect predictions.

    Other keys (dtype, cache, versions) are ignored.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: Literal["llama"] = Field(description="Model family of the Hugging Face hub.")
    hidden_size: PositiveInt = Field(description="Width of the residual stream.")
    intermediate_size: PositiveInt = Field(description="Width inside the MLP.")
    num_hidden_layers: PositiveInt = Field(le=4096, description="Number of decoder layers.")
    num_attention_heads: PositiveInt = Field(description="Number of attention heads.")
    num_key_value_heads: PositiveInt | None = Field(
        None, description="Number of heads of keys and values; absent in LLaMA-1: as many as attention heads."
    )
    vocab_size: PositiveInt = Field(description="Number of tokens.")
    max_position_embeddings: PositiveInt = Field(2048, description="Longest input in tokens.")
    rms_norm_eps: PositiveFloat = Field(description="Constant that the norms add to the mean square.")
    rope_theta: PositiveFloat = Field(10000.0, description="Base of the rotary embedding.")
    quip_params: QuipParams = Field(description="Quantization of the weights.")

    # Features that no published checkpoint has; other values would change predictions.
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
            raise ValueError(
                f"hidden_size {self.hidden_size} is not an even multiple of num_attention_heads {heads}"
            )
        if heads % kv_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if self.head_dim not in (None, self.hidden_size // heads):
            raise ValueError(
                f"head_dim {self.head_dim} is not hidden_size / num_attention_heads "
                f"= {self.hidden_size // heads}"
            )
        try:
            for linear in self.linears():
                check_sizes(linear.outputs, linear.inputs, linear.name)
        except InputError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def kv_heads(self):
        """Number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads

    def linears(self):
        """List the quantized linears (`Linear`) of a layer."""
        width, inner = self.hidden_size, self.intermediate_size
        kv_width = width // self.num_attention_heads * self.kv_heads
        return [
            Linear("self_attn.qkv_proj", ("q_proj", "k_proj", "v_proj"), (width, kv_width, kv_width), width),
            Linear("self_attn.o_proj", ("o_proj",), (width,), width),
            Linear("mlp.upgate_proj", ("up_proj", "gate_proj"), (inner, inner), width),
            Linear("mlp.down_proj", ("down_proj",), (width,), inner),
        ]

    def layout(self):
        """Derive the safetensors type and shape of every tensor of the checkpoint, by name."""
        width = self.hidden_size
        expected = {
            "model.embed_tokens.weight": ("F16", (self.vocab_size, width)),
            "model.norm.weight": ("F16", (width,)),
            "lm_head.weight": ("F16", (self.vocab_size, width)),
        }
        for i, norm in itertools.product(range(self.num_hidden_layers), NORMS):
            expected[f"model.layers.{i}.{norm}.weight"] = ("F16", (width,))
        for i, linear in itertools.product(range(self.num_hidden_layers), self.linears()):
            for part, entry in linear_layout(
                self.quip_params, linear.outputs, linear.inputs, linear.blocks
            ).items():
                expected[f"model.layers.{i}.{linear.name}.{part}"] = entry
        return expected


NORMS = ("input_layernorm", "post_attention_layernorm")


@dataclasses.dataclass(frozen=True)
class Linear:
    """A quantized linear as stored: `sizes` rows for each of `names`, and `inputs` columns."""

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
        """Rows of each fused block, or None if there is only one."""
        return self.sizes if len(self.sizes) > 1 else None


def linear_layout(params, outputs, inputs, fuse_sizes):
    """Derive the type and shape of each tensor of a quantized linear, by name.

    Parameters
    ----------
    params : QuipParams
    outputs, inputs : int
    fuse_sizes : sequence of int or None
        Rows of each fused block, if there are several.

    Returns
    -------
    dict of str to (str, tuple of int)
    """
    words = CODEBOOKS[params.codebook, params.codebook_version].words
    layout = {
        "Qidxs": ("I64", (outputs, inputs * words // PACKED_COLUMNS)),
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


def check_sizes(outputs, inputs, where):
    """Raise an `InputError` that begins with `where` if a linear of this size cannot be packed."""
    for name, size, multiple in (("output", outputs, PACKED_ROWS), ("input", inputs, PACKED_COLUMNS)):
        if size % multiple or size < 1:
            raise InputError(f"{where}: {name} width {size} is not a multiple of {multiple}")
        try:
            hadamard_order(size)
        except InputError as error:
            raise InputError(f"{where}: {name} {error}") from None
