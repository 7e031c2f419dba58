"""The sections of the configuration: closed, described schemas of corpora, models, codecs, bounds, tables and figures.

Importing this module does not import torch: the Snakefile reads the configuration in every cluster job.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_name(name):
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name '{name}' must be letters, digits, '-' and '_' only: it becomes a file name")
    return name


def _check_commit(revision):
    if revision != "latest" and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"'{revision}' is not a commit (40 hexadecimal digits); a branch or tag can move; or 'latest'")
    return revision


def _check_vocabulary(tokens):
    if "" in tokens or len(set(tokens)) != len(tokens):
        raise ValueError("an empty token, or one that is listed twice; expected different tokens")
    return tokens


Name = Annotated[str, AfterValidator(_check_name)]
Commit = Annotated[str, AfterValidator(_check_commit)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Alpha = Annotated[float, Field(gt=0, le=1)]


def _as_list(value):
    return [value] if isinstance(value, str) else value


def _check_grid(values):
    if len(set(values)) != len(values):
        raise ValueError(f"grid {values} holds a value twice: it would be paid for twice")
    return values


Grid = AfterValidator(_check_grid)


class Section(BaseModel):
    """Base of all sections: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _exactly_one(self, *keys):
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(keys)} is needed, found {', '.join(given) or 'none'}")
        return given[0]


# ---------------------------------------------------------------- corpora


class Sequences(Section):
    """Sequences of integers, a document each (paper, B.6): the values of expression trees, or random ones of the same integers."""

    complexity: int = Field(ge=0, le=6, description="Least number of operators of a tree that gives a sequence; 984 sequences for 4.")
    length: PositiveInt = Field(30, description="Integers per sequence.")
    random: bool = Field(False, description="As many sequences of integers drawn at random from those of the structured sequences.")


class SyntheticRepertoire(Section):
    """A made-up antibody repertoire: no sequence is real."""

    families: PositiveInt = Field(description="Number of clonal families.")
    seed: int = Field(0, ge=0, description="Seed of its germline, recombinations and mutations.")


class Antibodies(Section):
    """Clonal families of antibodies, a document each (paper, B.9): exactly one of `units`, `families`, `synthetic`."""

    units: list[str] | None = Field(
        None,
        min_length=1,
        description="Data units of Observed Antibody Space (.csv or .csv.gz; paths or globs). Families are grouped here: same subject, V "
        "gene, J gene and junction length, and single linkage of the junctions.",
    )
    families: list[str] | None = Field(
        None,
        min_length=1,
        description="Csv files of families found by another program such as FastBCR (paths or globs) with column sequence_alignment_aa: a "
        "family per value of column clone_id, or per file without that column.",
    )
    synthetic: SyntheticRepertoire | None = Field(None, description="A synthetic repertoire, made by this run.")
    min_family: int = Field(25, ge=1, description="Least number of different sequences of a family that is kept.")
    max_tokens: int = Field(
        2048, ge=3, description="Most tokens of a document, end token included; members that do not fit are left out, none is cut."
    )
    hamming: float = Field(
        0.2, ge=0, lt=1, description="Units: largest Hamming distance of linked junctions, as a fraction of their length."
    )
    species: str = Field("human", description="Units: which species; units of others are left out.")
    chain: str = Field("Heavy", description="Units: which chain; units of others are left out.")

    @property
    def kind(self):
        """Which of the keys is given."""
        return self._exactly_one("units", "families", "synthetic")

    @model_validator(mode="after")
    def _check(self):
        _ = self.kind
        return self


class Source(Section):
    """Where documents come from: exactly one of `installed`, `files`, `hub`, `sequences`, `antibodies`."""

    installed: list[str] | None = Field(
        None,
        min_length=1,
        description="Installed Python packages: each non-empty .py file of a package's file list is a document, in sorted order.",
    )
    files: list[str] | None = Field(
        None,
        min_length=1,
        description="Local files, as paths or globs: .txt (a document each), .jsonl, .json, .parquet; .gz and .zst are read through.",
    )
    hub: str | None = Field(None, description="A dataset on the Hugging Face hub, 'owner/name'.")
    sequences: Sequences | None = Field(None, description="Integer sequences made by this run: digits, and a comma between two integers.")
    antibodies: Antibodies | None = Field(None, description="Clonal families of antibodies, their members joined by [ClSep].")
    revision: Commit | None = Field(
        None,
        description="Commit of the hub dataset, 40 hexadecimal digits; required with `hub`: the data cannot change under the bound. Or "
        "`latest`: the newest commit when it is first downloaded; the manifest (download.json) names it.",
    )
    patterns: list[str] | None = Field(
        None, description="Which files of the hub dataset to use (globs); default: every .parquet, .jsonl, .json and .txt file."
    )
    exclude: list[str] = Field([], description="Globs of files to leave out, matched against the path in the package, folder or dataset.")
    field: str | list[str] = Field(
        "text",
        min_length=1,
        description="The field (jsonl, json) or column (parquet) that holds a document's text; of several, the first that is there.",
    )
    eot_id: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="The id of `eot`, where `field` of .jsonl rows holds token ids in place of text (LLM360's prepared data). Documents "
        "end at this id, within rows, and continue over rows; at the end of a file one ends in any case.",
    )
    part: Literal["all", "docstrings"] = Field(
        "all", description="What of a document is its text: all, or of Python source its docstrings, joined by blank lines."
    )

    @model_validator(mode="after")
    def _check(self):
        kind = self._exactly_one("installed", "files", "hub", "sequences", "antibodies")
        if kind == "hub" and not self.revision:
            raise ValueError("a hub source needs `revision`: the commit to download")
        if kind != "hub" and (self.revision or self.patterns):
            raise ValueError("`revision` and `patterns` belong to a hub source")
        if self.eot_id is not None and (kind not in ("files", "hub") or self.part != "all"):
            raise ValueError("`eot_id` (rows of token ids) belongs to `files` or `hub`, without `part`")
        return self

    @property
    def made(self):
        """The file, below the corpus's folder, that this run writes the documents to before it counts them; None where they are there."""
        return "sequences.jsonl" if self.sequences else "families.jsonl" if self.antibodies else None


class TokenizerTraining(Section):
    """A byte-level BPE tokenizer trained on part of the corpus; those documents are then left out of the counted tokens."""

    vocab_size: int = Field(description="Size of the vocabulary, EOT included.", ge=258, le=2**32 - 1)
    fraction: float = Field(
        0.1, gt=0, lt=1, description="Fraction of the documents (a seeded draw) that the tokenizer is trained on. They are excluded from m."
    )


class Tokenizer(Section):
    """How text becomes token ids: exactly one of `train`, `corpus`, `file`, `hub`, `gpt2`, `sentencepiece`, `vocabulary`."""

    train: TokenizerTraining | None = Field(None, description="Train a byte-level BPE tokenizer on a seeded part of the corpus.")
    corpus: Name | None = Field(None, description="The tokenizer of another corpus, so that a model of one can be used on the other.")
    file: str | None = Field(None, description="A local tokenizer.json (Hugging Face tokenizers).")
    hub: str | None = Field(None, description="A tokenizer on the hub, 'owner/name': its tokenizer.json, or its tokenizer.model.")
    revision: Commit | None = Field(None, description="Commit of the hub tokenizer, or `latest`, as for a source; required with `hub`.")
    gpt2: str | None = Field(None, description="Folder with GPT-2's encoder.json and vocab.bpe.")
    sentencepiece: str | None = Field(None, description="A SentencePiece tokenizer.model.")
    vocabulary: Annotated[list[str], AfterValidator(_check_vocabulary)] | None = Field(
        None,
        min_length=2,
        description="All tokens as written, EOT among them; a token's id is its place, and text is made of these only.",
    )

    @property
    def kind(self):
        """Which of the keys is given."""
        return self._exactly_one("train", "corpus", "file", "hub", "gpt2", "sentencepiece", "vocabulary")

    @model_validator(mode="after")
    def _check(self):
        kind = self.kind
        if (kind == "hub") != bool(self.revision):
            raise ValueError("`revision` (the commit to download) goes with a hub tokenizer, and a hub tokenizer needs it")
        return self


class Split(Section):
    """Which documents are held out for validation. They are not counted in m."""

    val: float = Field(0.0, ge=0, lt=1, description="Fraction of all documents held out for validation (rounded up to whole documents).")
    seed: int = Field(2357, ge=0, description="Seed of the split's permutation.")


class ExpectedCorpus(Section):
    """What is known of a corpus before it is downloaded."""

    tokens: PositiveFloat = Field(description="Tokens.")
    gigabytes: PositiveFloat | None = Field(None, description="Size of the download in 1e9 bytes.")


class Corpus(Section):
    """A tokenized corpus: documents joined by end-of-text tokens."""

    source: Source = Field(description="Where the documents come from.")
    tokenizer: Tokenizer = Field(description="How text becomes token ids.")
    eot: str = Field("<|endoftext|>", min_length=1, description="The end-of-text token appended to each document.")
    split: Split = Field(Split(), description="The validation split.")
    shards: PositiveInt = Field(1, description="Number of token shards; each is tokenized by its own job.")
    empty_documents: Literal["error", "skip"] = Field("error", description="What to do with a document without text.")
    expected: ExpectedCorpus | None = Field(None, description="Its size, for `tokenbounds plan` alone: it changes no result.")

    @model_validator(mode="after")
    def _check(self):
        if self.source.eot_id is not None and self.tokenizer.train is not None:
            raise ValueError("tokenizer.train needs text, but with source.eot_id the documents are token ids")
        return self


class Sampling(Section):
    """Which tokens are scored to estimate the empirical risk."""

    mode: Literal["token", "window", "document"] = Field(
        "token", description="Draw single tokens, windows of consecutive tokens, or documents (for document-level bounds)."
    )
    n: PositiveInt = Field(10000, description="Number of draws (tokens, windows or documents), uniform with replacement.")
    context_length: PositiveInt = Field(
        1024,
        description="Most tokens of context that a prediction may use; in window mode, most tokens fed per window; in document mode, the "
        "first tokens of a document that make up its loss.",
    )
    window: PositiveInt | None = Field(None, description="Window mode: number of consecutive tokens scored per window (S).")

    @model_validator(mode="after")
    def _check(self):
        if (self.mode == "window") != (self.window is not None):
            raise ValueError("`window` (tokens scored per window) goes with mode: window, and window mode needs it")
        if self.window is not None and self.window > self.context_length:
            raise ValueError(f"window {self.window} is longer than context_length {self.context_length}")
        return self


# ---------------------------------------------------------------- models


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
    tool: Annotated[list[Literal["gzip", "zstd", "xz"]], BeforeValidator(_as_list), Field(min_length=1), Grid] = Field(
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


# ---------------------------------------------------------------- bounds and outputs


class Spaced(Section):
    """Numbers in (0, 1), evenly spaced in log(p / (1 - p))."""

    low: Probability = Field(description="The least.")
    high: Probability = Field(description="The greatest.")
    count: PositiveInt = Field(description="How many.")


class Bounds(Section):
    """What is bounded, and the grids that are searched. Every grid's log2 size is paid for (docs/theory.md, section 2)."""

    alpha: Annotated[list[Alpha], Field(min_length=1), Grid] = Field(
        [1e-4, 1e-3, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5], description="Smoothing probabilities that are tried."
    )
    top_k: Annotated[list[PositiveInt], Grid] = Field([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100], description="The k of the top-k errors.")
    a: Spaced = Field(Spaced(low=1e-3, high=0.9995, count=64), description="Bet sizes of the betting bound.")
    beta1: Annotated[list[float], Field(min_length=1), Grid] = Field(
        [0.0, 0.25, 0.5, 0.75, 1.0], description="Coefficients of the entropy in the betting bound's centre."
    )
    beta2: Annotated[list[float], Field(min_length=1), Grid] = Field([0.0, 0.03, 0.06], description="Coefficients of its square.")
    width: Annotated[list[Alpha], Field(min_length=1), Grid] = Field(
        [0.6, 0.8, 1.0], description="Reach of the bets below the largest loss, relative to the loss interval."
    )
    lambda_exponents: Annotated[list[float], Field(min_length=1), Grid] = Field(
        [-4, -3, -2, -1, 0, 1, 2, 3, 4], description="j of the multipliers 2^(j/2) sqrt(8 kappa) / Delta of the rigorous Azuma bound."
    )
    b: Spaced = Field(Spaced(low=0.01, high=0.98, count=32), description="Bet sizes for the mean over the draws; the pilot chooses.")
    candidates: PositiveInt = Field(
        1, description="Of how many results one may be picked after the draws were seen (rows, redraws); divides the draws' share of delta."
    )


Names = Annotated[list[Name], BeforeValidator(_as_list), Field(min_length=1)]


class Row(Section):
    """One line of a table: a model, coded, on a corpus; of several models or codecs, the one with the least betting bound."""

    label: str = Field(description="What the table calls it.")
    model: Names = Field(description="A key of `models`, or several to take the best of; the name of a sweep stands for its members.")
    codec: Names = Field(description="A key of `codecs`, or several, likewise.")
    corpus: Name = Field(description="A key of `corpora`: whose tokens the bound is about.")
    sampling: Name | None = Field(None, description="A key of `samplings`; default: the scheme under `sampling`.")


class Samples(Section):
    """What the models of a table's rows generate."""

    prompts: list[str] = Field([""], min_length=1, description="What texts begin with; an empty one: from the start token.")
    tokens: PositiveInt = Field(100, description="Most tokens to generate; a text ends before where the model ends the document.")
    temperature: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="The logits are divided by it; 0: always the most probable token."
    )
    top_k: PositiveInt | None = Field(None, description="Choose among the k most probable tokens; default all.")
    count: PositiveInt = Field(1, description="Texts per prompt and row.")


class Table(Section):
    """A table of the paper."""

    caption: str = Field("", description="Its caption.")
    rows: list[Row] = Field(min_length=1, description="Its rows, in order; the random guess is added below.")
    top_k: list[PositiveInt] = Field([1, 10, 100], description="Which top-k errors get a column.")
    samples: Samples | None = Field(None, description="Show text that the models of the rows generate, below their bounds.")
    validation_loss: bool = Field(False, description="Show the validation loss at the end of training, before quantization.")

    @model_validator(mode="after")
    def _check_columns(self):
        if self.samples is not None and self.validation_loss:
            raise ValueError("`validation_loss` is a column of tables without `samples`")
        return self


class RowSeries(Section):
    """A line of a figure."""

    label: str = Field(description="What the legend calls it.")
    rows: list[Row] = Field(min_length=1, description="Its points.")


class ModelSeries(Section):
    """A line of a figure about training."""

    label: str = Field(description="What the legend calls it.")
    models: Names = Field(description="Its points: keys of `models`; the name of a sweep stands for its members.")


class SizeFigure(Section):
    """Bound and training loss against compressed size (the paper's Figure 1, left and middle)."""

    kind: Literal["size"] = Field(description="Bound and training loss against compressed size.")
    series: list[RowSeries] = Field(min_length=1, description="Its lines.")

    def rows(self):
        """(where, row) of every row."""
        return [(f"series[{i}].rows[{j}]", row) for i, series in enumerate(self.series) for j, row in enumerate(series.rows)]

    def models(self):
        """(where, model) of every model that it is about: none, it needs certificates."""
        return []

    def labels(self):
        """(legend label, own label) of each row."""
        return [(series.label, row.label) for series in self.series for row in series.rows]


class ModelsFigure(Section):
    """A figure about models, without a bound."""

    series: list[ModelSeries] = Field(min_length=1, description="Its lines.")

    def rows(self):
        """No rows: it needs no certificates."""
        return []

    def models(self):
        """(where, model) of every model that it is about."""
        return [(f"series[{i}].models", model) for i, series in enumerate(self.series) for model in series.models]


class ParametersFigure(ModelsFigure):
    """Validation loss against trainable parameters (the paper's Figure 1, right)."""

    kind: Literal["parameters"] = Field(description="Validation loss against trainable parameters.")

    def labels(self):
        """(legend label, own label) of each model."""
        return [(series.label, model) for series in self.series for model in series.models]


class SmoothingFigure(Section):
    """What a smoothing head does to the bound (the paper's Figure 3)."""

    kind: Literal["smoothing"] = Field(description="Bounds with a smoothing head against global smoothing.")
    heads: list[Row] = Field(min_length=1, description="Rows whose codec is a smoothing head; the first is shown in detail.")

    def rows(self):
        """(where, row) of every row."""
        return [(f"heads[{i}]", row) for i, row in enumerate(self.heads)]

    def models(self):
        """(where, model) of every model whose training it shows."""
        return [(f"heads[{i}].model", model) for i, row in enumerate(self.heads) for model in row.model]

    @model_validator(mode="after")
    def _check(self):
        for row in self.heads:
            if len(row.model) * len(row.codec) != 1:
                raise ValueError(f"heads '{row.label}': {len(row.model)} models and {len(row.codec)} codecs; expected one of each")
        return self


class RecallFigure(ModelsFigure):
    """How much quantized models recall of the sequences that they were trained on (the paper's Figure 4)."""

    kind: Literal["recall"] = Field(description="Accuracy on training sequences against quantization levels.")
    series: list[ModelSeries] = Field(min_length=1, description="Its lines: the mean over their models, which are replicates.")
    levels: Annotated[list[Annotated[int, Field(ge=2, le=65536)]], Field(min_length=1), Grid] = Field(
        description="Numbers of quantization levels."
    )
    method: Literal["uniform", "kmeans"] = Field("uniform", description="Uniform bins or k-means.")

    def labels(self):
        """Legend label of each model."""
        return [series.label for series in self.series for _ in series.models]


class Evaluated(Section):
    """A model whose predictions of resampled tokens are compared with its downstream performance."""

    label: str = Field(description="What figure and table call it.")
    model: Name = Field(description="A key of `models`.")
    codec: Name = Field(description="A key of `codecs`.")


class Downstream(Section):
    """A downstream result of each evaluated model: measured on a `corpus`, or `published`."""

    label: str = Field(description="Name of the dataset.")
    metric: Literal["perplexity", "accuracy"] = Field(description="Perplexity, or accuracy in percent.")
    corpus: Name | None = Field(None, description="A key of `corpora` on whose tokens it is measured (next-token prediction).")
    published: dict[Name, PositiveFloat] | None = Field(None, description="Published values, by evaluated model.")

    @model_validator(mode="after")
    def _check(self):
        self._exactly_one("corpus", "published")
        return self


class MeaningFigure(Section):
    """What the bound is about, and whether it goes with downstream performance (the paper's Figure 2 and Table 7)."""

    kind: Literal["meaning"] = Field(description="Entropy of next tokens, and prediction of resampled ones against downstream performance.")
    entropy: Row = Field(description="The model whose entropy is shown; one model and one codec.")
    generator: Row = Field(description="The model that next tokens are drawn from, in the contexts of its corpus; one model and one codec.")
    evaluated: list[Evaluated] = Field(min_length=3, description="The models that predict them; a correlation needs three.")
    downstream: list[Downstream] = Field(min_length=1, description="Downstream results of the evaluated models.")
    source: str | None = Field(None, description="Where published results are from; goes with them.")
    draws: int = Field(10000, ge=2, description="How many contexts are used: the first so many draws, of each corpus.")
    tokens: PositiveInt = Field(1, description="Tokens drawn per context.")
    table: Name = Field(description="Name of the table that shows the same numbers.")
    caption: str = Field("", description="The table's caption.")

    def rows(self):
        """(where, row) of every row."""
        return [("entropy", self.entropy), ("generator", self.generator)]

    def models(self):
        """(where, model) of every model whose training it shows: none."""
        return []

    @property
    def corpora(self):
        """The corpora that downstream performance is measured on."""
        return list(dict.fromkeys(item.corpus for item in self.downstream if item.corpus))

    @model_validator(mode="after")
    def _check(self):
        for where, row in self.rows():
            if len(row.model) * len(row.codec) != 1:
                raise ValueError(f"{where} '{row.label}': {len(row.model)} models and {len(row.codec)} codecs; expected one of each")
        models = [item.model for item in self.evaluated]
        published = [item for item in self.downstream if item.published]
        for item in published:
            if set(item.published) != set(models):
                found = ", ".join(item.published)
                raise ValueError(f"downstream '{item.label}': values of {found}; expected those of {', '.join(dict.fromkeys(models))}")
        if bool(published) != bool(self.source):
            raise ValueError("`source` (where the numbers are from) goes with published results, and published results need it")
        columns = [(item.label, item.metric) for item in self.downstream]
        if len(set(columns)) != len(columns):
            raise ValueError("downstream: a label and metric occur twice; expected different ones")
        labels = [item.label for item in self.evaluated]
        if len(set(labels)) != len(labels):
            raise ValueError("evaluated: a label occurs twice; expected different ones")
        return self


Figure = Annotated[SizeFigure | ParametersFigure | SmoothingFigure | RecallFigure | MeaningFigure, Field(discriminator="kind")]


def slice_of(section, *, include=None, exclude=None):
    """Part of a section as plain JSON data: what a rule passes to its script, so that other keys do not make its output stale."""
    return section.model_dump(mode="json", exclude_none=True, include=include, exclude=exclude)
