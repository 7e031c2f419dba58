"""Models and their training, and hypotheses."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.sections.base import Commit, Name, Probability, Section, slice_of


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
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even width per head, found {self.width}/{self.heads}")
        return self


class HypothesisConfig(Section):
    """What every hypothesis says of itself, whatever its family."""

    vocab_size: int = Field(description="Number of tokens V that are predicted; the model may have more rows.", ge=2)
    start_token: Literal["first", "always"] = Field(description="Which predictions see a leading EOT: it stands for the document's start.")
    eot_id: int = Field(description="Id of the end-of-text token.", ge=0)

    @model_validator(mode="after")
    def _check_eot(self):
        if self.eot_id >= self.vocab_size:
            raise ValueError(f"eot_id {self.eot_id} is outside the vocabulary of {self.vocab_size} tokens")
        return self


class Structured(Section):
    """What all structures have in common."""

    layers: Literal["all", "attention"] = Field(
        "all", description="Which layers are structured besides the head: attention and MLP, or attention only."
    )
    train_biases: bool = Field(True, description="Whether biases train, those of norms too (else they stay 0).")
    train_norms: bool = Field(True, description="Whether the weights of norms train (else they stay 1).")
    vocab_multiple: PositiveInt = Field(
        64, description="The head's rows are padded to a multiple of this, so that they factorize; padding is never predicted."
    )


class LoRA(Structured):
    """W = W0 + (scale / rank) B A with W0 drawn from the seed [Hu et al. 2021]; layers that are not structured stay as drawn."""

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
    """Two block-diagonal factors with a permutation between [Dao et al. 2022]; the embedding stays as drawn."""

    kind: Literal["monarch"] = Field(description="Monarch matrices.")
    blocks: int = Field(4, ge=2, description="Blocks per factor; a divisor of every layer's input and output width.")


Structure = Annotated[LoRA | Kronecker | Monarch, Field(discriminator="kind")]


class Subspace(Section):
    """All that trains is theta0 + P w, with theta0 and the projection P drawn from the seed."""

    dimension: PositiveInt = Field(description="Length d of w; at most the number of parameters that it replaces.")


class Training(Section):
    """AdamW with linear warm-up and cosine decay."""

    steps: PositiveInt = Field(description="Optimizer steps.")
    batch_size: PositiveInt = Field(8, description="Sequences per micro-batch and process.")
    accumulation: PositiveInt = Field(1, description="Micro-batches per optimizer step, over all processes.")
    learning_rate: PositiveFloat = Field(2e-4, description="Peak learning rate.")
    min_learning_rate: float | None = Field(None, ge=0, description="Learning rate at the end of the cosine; default a tenth of the peak.")
    warmup: int = Field(500, ge=0, description="Warm-up steps.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay on matrices.")
    beta2: Probability = Field(0.95, description="Second AdamW momentum; the first is 0.9.")
    grad_clip: PositiveFloat = Field(1.0, description="Largest gradient norm.")
    sequence_length: PositiveInt | None = Field(None, description="Tokens per training sequence; default the model's context_length.")
    eval_every: PositiveInt = Field(500, description="Steps between evaluations on the validation split.")
    eval_batches: PositiveInt = Field(20, description="Micro-batches per evaluation.")
    checkpoint_minutes: PositiveFloat = Field(10.0, description="Minutes between checkpoints.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Compute type; auto takes bfloat16 where a short probe finds it faster."
    )
    processes: PositiveInt = Field(1, description="Training processes (one per GPU), started by torchrun when more than one.")
    threads: PositiveInt = Field(2, description="CPU threads per process; fixed, because the sums of a matrix product depend on it.")

    @model_validator(mode="after")
    def _check(self):
        if self.accumulation % self.processes:
            raise ValueError(f"accumulation {self.accumulation} is not a multiple of processes {self.processes}")
        if self.warmup > self.steps:
            raise ValueError(f"warmup {self.warmup} is longer than steps {self.steps}: the peak learning rate is never reached")
        if self.min_learning_rate is not None and self.min_learning_rate > self.learning_rate:
            raise ValueError(f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}")
        return self


class ModelSection(Section):
    """What all model families have in common."""

    corpus: Name = Field(description="The corpus whose tokenizer it has; a model that is trained here is trained on it.")
    start_token: Literal["first", "always"] = Field(
        "first",
        description="Who sees a leading EOT: a document's first token, or every prediction whose context reaches the document's start.",
    )


class TrainedSection(ModelSection):
    """What all models that are trained here have in common."""

    training: Training = Field(description="How it is trained.")
    replicate: int = Field(0, ge=0, description="The same again with other random draws: sweep this for error bars.")

    @model_validator(mode="after")
    def _check_length(self):
        length = self.training.sequence_length
        if length is not None and length > self.longest:
            raise ValueError(f"training.sequence_length {length} is longer than the model's context_length {self.longest}")
        return self


class GPTModel(TrainedSection):
    """A GPT, trained here."""

    family: Literal["gpt"] = Field(description="A GPT of our own, dense or structured.")
    architecture: Architecture = Field(description="Its shape.")
    structure: Structure | None = Field(None, description="How its linear layers are parametrized; default dense.")
    subspace: Subspace | None = Field(None, description="Train in a random subspace of the parameters.")
    last_tokens: int | None = Field(
        None, ge=0, description="Let a prediction see only so many tokens, in training and scoring (0: the start token alone); default all."
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
        """Its part of the hypothesis' configuration."""
        return slice_of(self, include={"family", "start_token", "architecture", "structure", "subspace", "last_tokens"})


class TransformersModel(TrainedSection):
    """A model of the transformers library, trained here."""

    family: Literal["transformers"] = Field(description="A decoder-only causal language model of the transformers library.")
    transformers: dict[str, Any] = Field(description="`model_type` and other keys of its transformers configuration, e.g. hidden_size.")
    context_length: PositiveInt = Field(1024, description="Longest input in tokens.")
    start_from: Name | None = Field(None, description="A model of the same shape whose weights it starts from: fine-tuning.")

    @property
    def longest(self):
        """Longest input in tokens."""
        return self.context_length

    @property
    def dropout(self):
        """Whether training needs random numbers for dropout: never."""
        return False

    def hypothesis(self):
        """Its part of the hypothesis' configuration."""
        return slice_of(self, include={"family", "start_token", "transformers", "context_length"})


PUBLISHED = ("pretrained", "quip")  # families of models that are not made here


class ExpectedModel(Section):
    """What is known of a published model before it is downloaded."""

    parameters: PositiveFloat = Field(description="Number of parameters.")
    gigabytes: PositiveFloat = Field(description="Size of the download in 1e9 bytes.")


class PublishedSection(ModelSection):
    """What all published models have in common."""

    hub: str | None = Field(None, description="A model on the Hugging Face hub, 'owner/name'.")
    revision: Commit | None = Field(None, description="Commit of the hub model, or `latest`, as for a corpus' source; required with `hub`.")
    folder: str | None = Field(None, description="A local folder with config.json and model.safetensors (or shards with an index).")
    context_length: PositiveInt | None = Field(None, description="Longest input in tokens; default what its config.json says.")
    expected: ExpectedModel | None = Field(None, description="Its size, for `tokenbounds plan` alone: it changes no result.")

    @model_validator(mode="after")
    def _check(self):
        if (self._exactly_one("hub", "folder") == "hub") != bool(self.revision):
            raise ValueError("`revision` (the commit to download) goes with a hub model, and a hub model needs it")
        return self

    @property
    def longest(self):
        """Longest input in tokens, None where only its config.json says."""
        return self.context_length


class PretrainedModel(PublishedSection):
    """A published model: safetensors that transformers can load, from the hub or a folder."""

    family: Literal["pretrained"] = Field(description="A published causal language model.")


class QuipModel(PublishedSection):
    """A LLaMA that was published quantized by QuIP#; its message is its files, compressed (codec `zip`)."""

    family: Literal["quip"] = Field(description="A QuIP# checkpoint of a LLaMA.")


class MarkovModel(ModelSection):
    """A sparse Markov chain over tokens, counted here (paper, B.5)."""

    family: Literal["markov"] = Field(description="A Markov chain.")
    order: int = Field(ge=0, description="Tokens k of context that a prediction sees.")
    tokens: PositiveInt = Field(1_000_000, description="Training tokens: a run of whole documents with at least so many.")
    floor_bits: int = Field(
        20, ge=1, le=30, description="2^-floor_bits of each prediction is spread evenly over all tokens, so that none is impossible."
    )

    @property
    def longest(self):
        """Longest input in tokens."""
        return self.order


Model = Annotated[GPTModel | TransformersModel | PretrainedModel | QuipModel | MarkovModel, Field(discriminator="family")]
