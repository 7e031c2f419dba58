"""Parametrizations of a GPT's linear layers: structures, and a random subspace."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tokenbounds.config.schema.base import Section


class Structured(Section):
    """Keys common to all structures."""

    layers: Literal["all", "attention"] = Field(
        "all",
        description="Structured layers besides the head: attention and MLP, or attention only.",
    )
    train_biases: bool = Field(True, description="Training of biases, those of norms too (else they stay 0).")
    train_norms: bool = Field(True, description="Training of the weights of norms (else they stay 1).")
    vocab_multiple: PositiveInt = Field(
        64,
        description="Multiple to which the head's rows are padded, so that they factorize; padding is never "
        "predicted.",
    )


class LoRA(Structured):
    """W = W0 + (scale / rank) B A with W0 drawn from the seed [Hu et al. 2021]; layers that are not
    structured stay as drawn."""

    kind: Literal["lora"] = Field(description="Low rank.")
    rank: PositiveInt = Field(description="Rank r.")
    scale: PositiveFloat = Field(32.0, description="LoRA's alpha: the update is multiplied by scale / rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before A during training.")


class Kronecker(Structured):
    """W = A (x) B, A of shape (out_factor, in_factor)."""

    kind: Literal["kronecker"] = Field(description="Kronecker product.")
    out_factor: PositiveInt = Field(description="Rows of A; a divisor of every layer's output width.")
    in_factor: PositiveInt = Field(description="Columns of A; a divisor of every layer's input width.")


class Monarch(Structured):
    """Two block-diagonal factors with a permutation between [Dao et al. 2022]; the embedding stays as
    drawn."""

    kind: Literal["monarch"] = Field(description="Monarch matrices.")
    blocks: int = Field(
        4, ge=2, description="Blocks per factor; a divisor of every layer's input and output width."
    )


Structure = Annotated[LoRA | Kronecker | Monarch, Field(discriminator="kind")]


class Subspace(Section):
    """Parameters theta0 + P w: only w trains; theta0 and the projection P are drawn from the seed."""

    dimension: PositiveInt = Field(
        description="Length d of w; at most the number of parameters that it replaces."
    )
