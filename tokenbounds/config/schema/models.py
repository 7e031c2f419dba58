"""Models, their structures and training, and the configuration of hypotheses."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.config.schema.base import Commit, Name, Probability, Section, slice_of
from tokenbounds.config.schema.structures import Structure, Subspace
from tokenbounds.plugins import with_plugins


class Architecture(Section):
    """A GPT: pre-norm transformer decoder with GELU and a tied head."""

    layers: PositiveInt = Field(description="Transformer blocks.")
    heads: PositiveInt = Field(description="Attention heads per block.")
    width: PositiveInt = Field(description="Width of the residual stream.")
    context_length: PositiveInt = Field(1024, description="Longest input in tokens (block size).")
    positions: Literal["learned", "rotary"] = Field("rotary", description="Position encoding.")
    bias: bool = Field(False, description="Bias vectors in linear layers and layer norms.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout during training.")

    @model_validator(mode="after")
    def _check(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        # Messages come from strangers: what is no model must not take time or memory before it is refused.
        if self.layers > 4096 or self.width > 2**20 or self.context_length * self.width // self.heads > 2**27:
            size = f"{self.layers} layers, width {self.width}, context {self.context_length}"
            raise ValueError(f"{size}; expected at most 4096, 2^20, and context times width per head 2^27")
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even width per head, found {self.width}/{self.heads}")
        return self


class HypothesisConfig(Section):
    """Facts that every hypothesis states, whatever its family."""

    vocab_size: int = Field(
        description="Number of tokens V that are predicted; the model may have more rows.", ge=2
    )
    start_token: Literal["first", "always"] = Field(
        description="Which predictions receive a leading start token, which stands for the document's start."
    )
    eot_id: int = Field(description="Id of the end-of-text token.", ge=0)
    start_id: int | None = Field(
        None, ge=0, description="Id of the start token where it is not the EOT: that of BOS."
    )

    @model_validator(mode="after")
    def _check_ids(self):
        for key in ("eot_id", "start_id"):
            token = getattr(self, key)
            if token is not None and token >= self.vocab_size:
                raise ValueError(f"{key} {token} is outside the vocabulary of {self.vocab_size} tokens")
        if self.start_id == self.eot_id:
            raise ValueError(f"start_id {self.start_id} is the eot_id; expected it only where they differ")
        if self.vocab_size > 2**32:
            raise ValueError(f"vocab_size {self.vocab_size}; expected at most 2^32")
        return self


def _power_of_two(number):
    # There are few of them: another number in the message would be another hash, and with it other draws.
    if number & (number - 1):
        raise ValueError(f"{number}; expected a power of two")
    return number


class Arithmetic(Section):
    """Numbers and shapes in which predictions are computed: part of the hypothesis, which is a program
    (docs/theory.md, section 13)."""

    dtype: Literal["float32", "tf32", "bfloat16"] = Field(
        "float32",
        description="Arithmetic of the model; softmax and smoothing are computed in float32 at least.",
    )
    multiple: Annotated[int, AfterValidator(_power_of_two)] = Field(
        64,
        ge=1,
        le=4096,
        description="Inputs are padded to the next multiple of so many tokens; a power of two.",
    )
    batch_tokens: Annotated[int, AfterValidator(_power_of_two)] = Field(
        16384,
        ge=1,
        le=2**20,
        description="Tokens per batch, padding included: all batches of a length have equally many rows; a "
        "power of two.",
    )


class Training(Section):
    """AdamW with linear warm-up and cosine decay."""

    steps: PositiveInt = Field(description="Optimizer steps.")
    batch_size: PositiveInt = Field(8, description="Sequences per micro-batch and process.")
    accumulation: PositiveInt = Field(1, description="Micro-batches per optimizer step, over all processes.")
    learning_rate: PositiveFloat = Field(2e-4, description="Peak learning rate.")
    min_learning_rate: float | None = Field(
        None, ge=0, description="Learning rate at the end of the cosine; default a tenth of the peak."
    )
    warmup: int = Field(500, ge=0, description="Warm-up steps.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay on matrices.")
    beta2: Probability = Field(0.95, description="Second AdamW momentum; the first is 0.9.")
    grad_clip: PositiveFloat = Field(1.0, description="Largest gradient norm.")
    sequence_length: PositiveInt | None = Field(
        None, description="Tokens per training sequence; default the model's context_length."
    )
    eval_every: PositiveInt = Field(500, description="Steps between evaluations on the validation split.")
    eval_batches: PositiveInt = Field(20, description="Micro-batches per evaluation.")
    checkpoint_minutes: PositiveFloat = Field(10.0, description="Minutes between checkpoints.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Compute type; auto takes bfloat16 where a short probe finds it faster."
    )
    processes: PositiveInt = Field(
        1, description="Training processes (one per GPU), started by torchrun when more than one."
    )
    threads: PositiveInt = Field(
        2, description="CPU threads per process; fixed, because the sums of a matrix product depend on it."
    )

    @model_validator(mode="after")
    def _check(self):
        if self.accumulation % self.processes:
            raise ValueError(
                f"accumulation {self.accumulation} is not a multiple of processes {self.processes}"
            )
        if self.warmup > self.steps:
            raise ValueError(
                f"warmup {self.warmup} is longer than steps {self.steps}: "
                "the peak learning rate is never reached"
            )
        if self.min_learning_rate is not None and self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}"
            )
        return self


class ModelSection(Section):
    """Base of all model families.

    Attributes
    ----------
    implementation : str
        The class that predicts, as ``"package.module:Class"``: see `tokenbounds.models.registry`.
    made_by : str
        Rule that makes the model: ``train``, ``markov``, ``pretrained``, or ``download_model`` if it is
        only downloaded.
    """

    implementation: ClassVar[str]
    made_by: ClassVar[str]

    corpus: Name = Field(
        description="Corpus whose tokenizer the model has, and on which it is trained if it is trained here."
    )
    start_token: Literal["first", "always"] = Field(
        "first",
        description="Which predictions receive a leading EOT: a document's first, or all whose context "
        "reaches the document's start.",
    )
    arithmetic: Arithmetic | None = Field(
        None, description="Arithmetic in which its predictions are computed; default scoring.arithmetic."
    )

    if TYPE_CHECKING:
        family: str  # every subclass narrows it; declared here, it would come first among their keys

    @property
    def longest(self):
        """Longest input in tokens; None if only the model's files state it."""
        raise NotImplementedError

    @property
    def trained(self):
        """Whether it is trained here by gradient descent."""
        return isinstance(self, TrainedSection)

    @property
    def published(self):
        """Whether it was published by others, and is read unchanged."""
        return isinstance(self, PublishedSection)


class TrainedSection(ModelSection):
    """Base of all models that are trained here. A family adds the properties `longest` and `dropout`, and the
    method `hypothesis`."""

    made_by: ClassVar[str] = "train"

    training: Training = Field(description="Options of its training.")
    replicate: int = Field(
        0, ge=0, description="Number of a replicate with other random draws: sweep this for error bars."
    )

    @model_validator(mode="after")
    def _check_length(self):
        length = self.training.sequence_length
        if length is not None and length > self.longest:
            raise ValueError(
                f"training.sequence_length {length} is longer than the model's context_length {self.longest}"
            )
        return self


class GPTModel(TrainedSection):
    """A GPT, trained here."""

    implementation: ClassVar[str] = "tokenbounds.models.gpt:GPT"

    family: Literal["gpt"] = Field(description="A GPT of our own, dense or structured.")
    architecture: Architecture = Field(description="Shape of the model.")
    structure: Structure | None = Field(
        None, description="Parametrization of its linear layers; default dense."
    )
    subspace: Subspace | None = Field(None, description="Training in a random subspace of the parameters.")
    last_tokens: int | None = Field(
        None,
        ge=0,
        description="Number of last tokens that a prediction sees, in training and scoring (0: the start "
        "token alone); default all.",
    )

    @property
    def longest(self):
        """Longest input in tokens."""
        length = self.architecture.context_length
        return length if self.last_tokens is None else min(length, self.last_tokens)

    @property
    def dropout(self):
        """Whether training needs random numbers for dropout."""
        return max(self.architecture.dropout, getattr(self.structure, "dropout", 0.0)) > 0

    def hypothesis(self):
        """Return its part of the hypothesis' configuration."""
        return slice_of(
            self, include={"family", "start_token", "architecture", "structure", "subspace", "last_tokens"}
        )


class TransformersModel(TrainedSection):
    """A model of the transformers library, trained here."""

    implementation: ClassVar[str] = "tokenbounds.models.transformers:CausalLM"

    family: Literal["transformers"] = Field(
        description="A decoder-only causal language model of the transformers library."
    )
    transformers: dict[str, Any] = Field(
        description="`model_type` and other keys of its transformers configuration, e.g. hidden_size."
    )
    context_length: PositiveInt = Field(1024, description="Longest input in tokens.")
    start_from: Name | None = Field(
        None, description="A model of the same shape whose weights it starts from: fine-tuning."
    )

    @property
    def longest(self):
        """Longest input in tokens."""
        return self.context_length

    @property
    def dropout(self):
        """Whether training needs random numbers for dropout: never."""
        return False

    def hypothesis(self):
        """Return its part of the hypothesis' configuration."""
        return slice_of(self, include={"family", "start_token", "transformers", "context_length"})


class ExpectedModel(Section):
    """Size of a published model, as known before the download, and its published loss."""

    parameters: PositiveFloat = Field(description="Number of parameters.")
    gigabytes: PositiveFloat = Field(description="Size of the download in 1e9 bytes.")
    bits_per_token: PositiveFloat | None = Field(
        None,
        description="Published loss of the model as released, on the text of its corpus, in bits per token: "
        "the sanity check states it beside the loss that it measures.",
    )


class PublishedSection(ModelSection):
    """Base of all published models."""

    places: ClassVar[tuple[str, ...]] = ("hub", "folder")  # keys of which exactly one says where it is

    start_token: Literal["first", "always"] | None = Field(  # type: ignore[assignment]
        None,
        description="Which predictions receive a leading start token, as for other families; default always "
        "where the tokenizer itself puts a token (BOS) before a text or `start_id` is given, else first.",
    )
    start_id: int | None = Field(
        None,
        ge=0,
        description="Id of the start token; default the one that the tokenizer puts before a text (BOS), "
        "else the EOT.",
    )
    sanity_limit: PositiveFloat | None = Field(
        None,
        description="Largest loss in the sanity check, bits per token; default a third of the random guess.",
    )
    sanity_damage: PositiveFloat | None = Field(
        None,
        description="Largest loss in the sanity check above that of the undamaged model on the same text, in "
        "bits per token, for codecs that change the weights; default no such limit.",
    )
    hub: str | None = Field(None, description="A model on the Hugging Face hub, 'owner/name'.")
    revision: Commit | None = Field(
        None,
        description="Commit of the hub model, or `latest`, as for a corpus' source; required with `hub`.",
    )
    folder: str | None = Field(
        None, description="A local folder with config.json and model.safetensors (or shards with an index)."
    )
    context_length: PositiveInt | None = Field(
        None, description="Longest input in tokens; default that in its config.json."
    )
    expected: ExpectedModel | None = Field(
        None,
        description="Expected size, for `tokenbounds plan`, and expected loss, for the sanity check; they "
        "change no result.",
    )

    @model_validator(mode="after")
    def _check(self):
        if (self._exactly_one(*self.places) == "hub") != bool(self.revision):
            raise ValueError(
                "`revision` (the commit to download) goes with a hub model, and a hub model needs it"
            )
        return self

    @property
    def longest(self):
        """Longest input in tokens; None if only its config.json states it."""
        return self.context_length


class PretrainedModel(PublishedSection):
    """A published model: safetensors that transformers can load, from the hub or a folder."""

    implementation: ClassVar[str] = "tokenbounds.models.transformers:CausalLM"
    made_by: ClassVar[str] = "pretrained"

    family: Literal["pretrained"] = Field(description="A published causal language model.")


class GGUFModel(PublishedSection):
    """A published model in a GGUF file, the format of llama.cpp: weights, tokenizer and end of text in one
    file."""

    implementation: ClassVar[str] = "tokenbounds.models.transformers:CausalLM"
    made_by: ClassVar[str] = "pretrained"
    places: ClassVar[tuple[str, ...]] = ("hub", "folder", "path")

    family: Literal["gguf"] = Field(description="A published causal language model in a GGUF file.")
    path: str | None = Field(None, description="A local GGUF file.")
    file: str | None = Field(
        None, pattern=r"[^/]\.gguf$", description="The GGUF file in the hub repository or folder."
    )

    @model_validator(mode="after")
    def _check_file(self):
        if (self.file is None) != (self.path is not None):
            raise ValueError("`file` (a .gguf file) goes with `hub` or `folder`, which need it")
        return self

    @property
    def local_path(self):
        """Path of the local file; None for one on the hub."""
        return self.path or (f"{self.folder}/{self.file}" if self.folder else None)


class QuipModel(PublishedSection):
    """A LLaMA that was published quantized by QuIP#; its message is its files, compressed (codec `zip`)."""

    implementation: ClassVar[str] = "tokenbounds.models.quip.llama:QuipLlama"
    made_by: ClassVar[str] = "download_model"

    family: Literal["quip"] = Field(description="A QuIP# checkpoint of a LLaMA.")


class MarkovModel(ModelSection):
    """A sparse Markov chain over tokens, counted here (paper, B.5)."""

    implementation: ClassVar[str] = "tokenbounds.models.markov:MarkovChain"
    made_by: ClassVar[str] = "markov"

    family: Literal["markov"] = Field(description="A Markov chain.")
    order: int = Field(ge=0, description="Tokens k of context that a prediction sees.")
    tokens: PositiveInt = Field(
        1_000_000, description="Least number of training tokens, which are consecutive whole documents."
    )
    floor_bits: int = Field(
        20,
        ge=1,
        le=30,
        description="Size of the floor: 2^-floor_bits of each prediction is spread evenly over all tokens, "
        "so that none is impossible.",
    )

    @property
    def longest(self):
        """Longest input in tokens."""
        return self.order


# Every family, by name. A new one is a module with a class, a section above, and its name here.
FAMILIES = with_plugins(
    "tokenbounds.families",
    {
        "gpt": GPTModel,
        "transformers": TransformersModel,
        "pretrained": PretrainedModel,
        "gguf": GGUFModel,
        "quip": QuipModel,
        "markov": MarkovModel,
    },
)
if TYPE_CHECKING:
    Model = ModelSection  # a type checker cannot know the sections that plugins add
else:
    Model = Annotated[Union[tuple(FAMILIES.values())], Field(discriminator="family")]  # noqa: UP007
