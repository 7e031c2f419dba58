"""Codecs, and how drawn tokens are scored."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.sections.base import Alpha, Grid, Name, Probability, Section, as_list


class Tuning(Section):
    """Quantisation-aware tuning of weights and codewords on the training loss, straight through the rounding."""

    steps: PositiveInt = Field(200, description="SGD steps.")
    learning_rate: PositiveFloat = Field(5e-5, description="Learning rate of the weights.")
    centroid_learning_rate: PositiveFloat | None = Field(None, description="Learning rate of the codewords; default that of the weights.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    batch_size: PositiveInt = Field(8, description="Sequences per step.")


class Levels(Section):
    """Scalar quantization, then range coding."""

    kind: Literal["levels"] = Field(description="Scalar quantization, then range coding.")
    levels: int = Field(11, ge=2, le=65536, description="Number of quantization levels.")
    method: Literal["uniform", "kmeans"] = Field("uniform", description="Uniform bins or k-means.")
    codebook: Literal["tensor", "shared"] = Field("tensor", description="A codebook per tensor, or one for all.")
    tuning: Tuning | None = Field(None, description="Tune weights and codewords after quantization; default: do not.")


class Lattice(Section):
    """QuIP#-style quantization: incoherent matrices on the E8P lattice, rounded with the Hessians of training tokens, range coded."""

    kind: Literal["lattice"] = Field(description="Matrices on a lattice, other tensors as codec `levels` codes them.")
    bits: Literal[2, 3, 4] = Field(description="Bits per weight before range coding.")
    levels: int = Field(25, ge=2, le=65536, description="Number of levels of the other tensors (embedding, head, norms).")
    method: Literal["uniform", "kmeans"] = Field("kmeans", description="How the others are quantized.")
    codebook: Literal["tensor", "shared"] = Field("tensor", description="A codebook per tensor, or one for all.")
    tokens: PositiveInt = Field(65536, description="Training tokens that the Hessians are estimated from.")
    tuning_rounds: int = Field(10, ge=0, description="Rounds of coordinate descent after the first rounding.")
    scale: PositiveFloat | None = Field(None, description="Scale of the lattice; default QuIP#'s for the number of bits.")


class Head(Section):
    """The message of another codec and a smoothing head, trained on the decoded model, the bound its objective."""

    kind: Literal["alpha_head"] = Field(description="A coded model with a smoothing head.")
    base: Name = Field(description="The codec of the model itself.")
    objective: Literal["betting", "azuma_rigorous"] = Field("betting", description="The bound that the head minimises.")
    alpha_min: Annotated[list[Alpha], Field(min_length=1)] = Field(
        [1e-3, 0.005, 0.01, 0.05, 0.1, 0.2], description="Least smoothing, from which the training picks: with it goes the largest loss."
    )
    alpha_max: Probability = Field(0.9, description="Greatest smoothing.")
    tokens: PositiveInt = Field(20000, description="Training tokens, drawn apart from those of the certificate.")

    @model_validator(mode="after")
    def _check(self):
        if max(self.alpha_min) >= self.alpha_max:
            raise ValueError(f"alpha_min {max(self.alpha_min)} is not below alpha_max {self.alpha_max}")
        return self


class Zip(Section):
    """The files of a published checkpoint under a real compressor: nothing is rounded, and what is scored is the files."""

    kind: Literal["zip"] = Field(description="Published files, compressed.")
    tool: Annotated[list[Literal["gzip", "zstd", "xz"]], BeforeValidator(as_list), Field(min_length=1), Grid] = Field(
        ["gzip"], description="Compressor, or several of which the smallest result counts (the message says which)."
    )
    level: PositiveInt | None = Field(None, description="Its level; default 6 (gzip, xz) or 19 (zstd).")
    split_planes: bool = Field(False, description="Store low and high bytes of 16-bit tensors apart before compressing.")


class Counts(Section):
    """The n-grams and 16-bit counts of a Markov chain, delta coded and range coded; nothing more is rounded."""

    kind: Literal["counts"] = Field(description="N-gram counts.")


Codec = Annotated[Levels | Lattice | Head | Zip | Counts, Field(discriminator="kind")]


class Scoring(Section):
    """How the drawn tokens are scored. Changes nothing in the records beyond rounding."""

    parts: PositiveInt = Field(1, description="Number of scoring jobs per model.")
    batch_tokens: PositiveInt = Field(16384, description="Most tokens per batch, padding included.")
    device: str = Field("auto", description="torch device, or auto: a GPU if there is one.")
    threads: PositiveInt = Field(2, description="CPU threads per scoring job.")
