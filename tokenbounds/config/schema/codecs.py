"""Codecs, and the scoring of drawn tokens."""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.config.schema.base import Alpha, Grid, Name, Probability, Section, as_list
from tokenbounds.config.schema.models import Arithmetic
from tokenbounds.plugins import with_plugins


def _best_or(number, low, high):
    """Return a check of a value that is "best", or a `number` (int or float) from `low` to `high`: one line
    instead of pydantic's for each type of the union."""

    def check(value):
        given = float(value) if type(value) is int and number is float else value
        if value == "best" or (type(given) is number and low <= given <= high):
            return value
        what = "whole number" if number is int else "number"
        raise ValueError(f"found {value!r:.40}; expected best, or a {what} from {low} to {high}")

    return BeforeValidator(check)


class CodecSection(Section):
    """Base of all codecs.

    Attributes
    ----------
    implementation : str or None
        The class that writes and reads the message's body, as ``"package.module:Class"``: see
        `tokenbounds.codecs.base`. None if it is that of another codec, `base`.
    made_by : str
        Rule that makes the message.
    takes_head : bool
        Whether a smoothing head may follow the model's message.
    preparation : str or None
        A function that quantizes the model before it is coded, if that needs more than its tensors: see
        `tokenbounds.codecs.encode`.
    needs_tokens : bool
        Whether the preparation runs the model on training tokens.
    """

    if TYPE_CHECKING:
        base: str  # only where `implementation` is None

    implementation: ClassVar[str | None]
    made_by: ClassVar[str] = "message"
    takes_head: ClassVar[bool] = True

    @property
    def preparation(self):
        """No preparation: the class codes the model's own tensors."""
        return None

    @property
    def needs_tokens(self):
        """No tokens are needed."""
        return False

    @property
    def bits_per_value(self):
        """Estimate of the bits per parameter of a message, for plans; None without one."""
        return None

    def encodes(self, model):
        """Tell whether it codes models like `model`, a section of the configuration: those with tensors of
        floating point."""
        return model.made_by in ("train", "pretrained")

    def expected(self):
        """Describe in words the models that it codes."""
        return "a trained or published dense model"


class Tuning(Section):
    """Quantization-aware tuning of weights and codewords on the training loss, straight through the
    rounding."""

    steps: PositiveInt = Field(200, description="SGD steps.")
    learning_rate: PositiveFloat = Field(5e-5, description="Learning rate of the weights.")
    centroid_learning_rate: PositiveFloat | None = Field(
        None, description="Learning rate of the codewords; default that of the weights."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum.")
    batch_size: PositiveInt = Field(8, description="Sequences per step.")


class Levels(CodecSection):
    """Scalar quantization, then range coding."""

    implementation: ClassVar[str] = "tokenbounds.codecs.levels:LevelsCodec"

    kind: Literal["levels"] = Field(description="Scalar quantization, then range coding.")
    levels: Annotated[int | Literal["best"], _best_or(int, 2, 65536)] = Field(
        11,
        description="Number of quantization levels, or best: as many as give the least bound that the loss "
        "on calibration tokens predicts.",
    )
    method: Literal["uniform", "kmeans"] = Field("uniform", description="Uniform bins or k-means.")
    codebook: Literal["tensor", "shared"] = Field(
        "tensor", description="A codebook per tensor, or one for all."
    )
    tuning: Tuning | None = Field(
        None, description="Tuning of weights and codewords after quantization; default none."
    )

    @model_validator(mode="after")
    def _check(self):
        if self.tuning and self.levels == "best":
            raise ValueError("levels is best beside a section tuning, which needs a number of levels")
        return self

    @property
    def preparation(self):
        """The function that tunes or chooses the number of levels, if there is either."""
        if self.levels == "best":
            return "tokenbounds.codecs.best_size:best_levels"
        return "tokenbounds.codecs.quantization_aware:tuned" if self.tuning else None

    @property
    def needs_tokens(self):
        """Tuning and choosing run the model on training tokens."""
        return self.preparation is not None

    @property
    def bits_per_value(self):
        """Bits of an evenly distributed symbol."""
        return 4.0 if self.levels == "best" else math.log2(self.levels)


class Sequential(CodecSection):
    """Sequential rounding with error feedback and steps by what matters, range coded: messages that keep the
    model."""

    implementation: ClassVar[str] = "tokenbounds.codecs.sequential.codec:SequentialCodec"

    kind: Literal["sequential"] = Field(
        description="Whole numbers times steps, small where the loss is sensitive, rounded with error "
        "feedback, range coded."
    )
    bits: Annotated[float | Literal["best"], _best_or(float, 0.25, 10)] = Field(
        "best",
        description="Bits per parameter, or best: those with the least bound that the loss on calibration "
        "tokens predicts.",
    )
    tokens: PositiveInt = Field(
        32768, description="Training tokens that second moments of inputs are measured on."
    )
    gradient_tokens: PositiveInt = Field(8192, description="How many of them gradients are measured on.")
    damping: float = Field(
        0.01, gt=0, le=1, description="Share of the mean second moment that is added to each."
    )

    @property
    def preparation(self):
        """Rounding of all tensors, with what is measured on training tokens."""
        return "tokenbounds.codecs.sequential.prepare:sequentially"

    @property
    def needs_tokens(self):
        """The importance of tensors is measured on training tokens."""
        return True

    @property
    def bits_per_value(self):
        """Bits per parameter that are asked for."""
        return 3.0 if self.bits == "best" else self.bits


class Lattice(CodecSection):
    """QuIP#-style quantization: incoherent matrices on the E8P lattice, rounded with the Hessians of training
    tokens, range coded."""

    implementation: ClassVar[str] = "tokenbounds.codecs.lattice_codec:LatticeCodec"

    kind: Literal["lattice"] = Field(
        description="Matrices on a lattice, other tensors as codec `levels` codes them."
    )
    bits: Literal[2, 3, 4, "best"] = Field(
        description="Bits per weight before range coding, or best: those with the least predicted bound."
    )
    levels: int = Field(
        25, ge=2, le=65536, description="Number of levels of the other tensors (embedding, head, norms)."
    )
    method: Literal["uniform", "kmeans"] = Field(
        "kmeans", description="Quantizer of the other tensors: uniform bins or k-means."
    )
    codebook: Literal["tensor", "shared"] = Field(
        "tensor", description="A codebook per tensor, or one for all."
    )
    tokens: PositiveInt = Field(65536, description="Training tokens that the Hessians are estimated from.")
    tuning_rounds: int = Field(10, ge=0, description="Rounds of coordinate descent after the first rounding.")
    scale: PositiveFloat | None = Field(
        None, description="Scale of the lattice; default QuIP#'s for the number of bits."
    )

    @property
    def preparation(self):
        """Rounding to the lattice, with the second moments of the layers' inputs."""
        return "tokenbounds.codecs.calibration:on_lattice"

    @property
    def needs_tokens(self):
        """The second moments are measured on training tokens."""
        return True

    @property
    def bits_per_value(self):
        """Bits per weight on the lattice."""
        return 3.0 if self.bits == "best" else float(self.bits)


class Head(CodecSection):
    """The message of another codec and a smoothing head, trained on the decoded model to minimise a bound."""

    implementation: ClassVar = None
    made_by: ClassVar[str] = "alpha_head"
    takes_head: ClassVar[bool] = False

    kind: Literal["alpha_head"] = Field(description="A coded model with a smoothing head.")
    base: Name = Field(description="The codec of the model itself.")
    objective: Literal["betting", "azuma_rigorous"] = Field(
        "betting", description="The bound that the head minimises."
    )
    alpha_min: Annotated[list[Alpha], Field(min_length=1)] = Field(
        [1e-3, 0.005, 0.01, 0.05, 0.1, 0.2],
        description="Candidates for the least smoothing, which limits the largest loss; training picks one.",
    )
    alpha_max: Probability = Field(0.9, description="Greatest smoothing.")
    tokens: PositiveInt = Field(
        20000, description="Training tokens, drawn apart from those of the certificate."
    )

    @model_validator(mode="after")
    def _check(self):
        if max(self.alpha_min) >= self.alpha_max:
            raise ValueError(f"alpha_min {max(self.alpha_min)} is not below alpha_max {self.alpha_max}")
        return self


class Zip(CodecSection):
    """The files of a published checkpoint under a real compressor: nothing is rounded, and the files
    themselves are scored."""

    implementation: ClassVar[str] = "tokenbounds.codecs.archive:ZipCodec"
    made_by: ClassVar[str] = "compress"
    takes_head: ClassVar[bool] = False

    kind: Literal["zip"] = Field(description="Published files, compressed.")
    tool: Annotated[
        list[Literal["gzip", "zstd", "xz"]], BeforeValidator(as_list), Field(min_length=1), Grid
    ] = Field(
        ["gzip"],
        description="Compressor, or several: the smallest result counts, and the message names its tool.",
    )
    level: PositiveInt | None = Field(
        None,
        description="Level of compression; default 6 (gzip, xz) or 19 (zstd; 1 with `split_planes`, where 19 "
        "takes a hundred times as long for less than 2% of the size).",
    )
    split_planes: bool = Field(
        False, description="Separation of low and high bytes of 16-bit tensors before compression."
    )

    def encodes(self, model):
        """Tell whether `model` is published files."""
        return model.published

    def expected(self):
        """Describe in words the models that it codes."""
        return "a published model, whose files it compresses"


class Counts(CodecSection):
    """The n-grams and 16-bit counts of a Markov chain, delta coded and range coded; nothing more is
    rounded."""

    implementation: ClassVar[str] = "tokenbounds.codecs.counts:CountsCodec"
    takes_head: ClassVar[bool] = False

    kind: Literal["counts"] = Field(description="N-gram counts.")

    def encodes(self, model):
        """Tell whether `model` is a Markov chain."""
        return model.made_by == "markov"

    def expected(self):
        """Describe in words the models that it codes."""
        return "a Markov chain"


# Every codec, by kind. A new one is a module with a class, a section above, and its name here.
CODECS = with_plugins(
    "tokenbounds.codecs",
    {
        "levels": Levels,
        "sequential": Sequential,
        "lattice": Lattice,
        "alpha_head": Head,
        "zip": Zip,
        "counts": Counts,
    },
)
if TYPE_CHECKING:
    Codec = CodecSection  # a type checker cannot know the sections that plugins add
else:
    Codec = Annotated[Union[tuple(CODECS.values())], Field(discriminator="kind")]  # noqa: UP007


class Scoring(Section):
    """Scoring of drawn tokens."""

    parts: PositiveInt = Field(1, description="Number of scoring jobs per model.")
    arithmetic: Arithmetic = Field(
        Arithmetic(), description="Arithmetic of the models that name none of their own."
    )
    device: str = Field("auto", description="torch device, or auto: a GPU if there is one.")
    threads: PositiveInt = Field(2, description="CPU threads per scoring job.")
