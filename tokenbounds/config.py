"""The configuration: one closed, described schema.

Every key has a description, unknown keys are errors that name the nearest valid key, and cross references (a row's model, codec, corpus)
are checked when the configuration is read, before any job starts. ``docs/config.schema.json`` is generated from these classes
(``python -m tokenbounds.config``); a test fails when it drifts.

Importing this module does not import torch: the Snakefile reads the configuration in every cluster job.
"""

import difflib
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from tokenbounds.errors import InputError
from tokenbounds.files import write_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_name(name):
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name '{name}' must be letters, digits, '-' and '_' only: it becomes a file name")
    return name


def _check_commit(revision):
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"'{revision}' is not a commit (40 hexadecimal digits); a branch or tag can move")
    return revision


Name = Annotated[str, AfterValidator(_check_name)]
Commit = Annotated[str, AfterValidator(_check_commit)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Alpha = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """Base of all sections: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _exactly_one(self, *keys):
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(keys)} is needed, found {', '.join(given) or 'none'}")
        return given[0]


# ---------------------------------------------------------------- corpora


class Source(Section):
    """Where documents come from: exactly one of `installed`, `files`, `hub`."""

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
    revision: Commit | None = Field(
        None,
        description="Commit of the hub dataset, 40 hexadecimal digits; required with `hub`: the data cannot change under the bound.",
    )
    patterns: list[str] | None = Field(
        None, description="Which files of the hub dataset to use (globs); default: every .parquet, .jsonl, .json and .txt file."
    )
    exclude: list[str] = Field([], description="Globs of files to leave out, matched against the path in the package, folder or dataset.")
    field: str = Field("text", description="The field (jsonl, json) or column (parquet) that holds a document's text.")

    @model_validator(mode="after")
    def _check(self):
        kind = self._exactly_one("installed", "files", "hub")
        if kind == "hub" and not self.revision:
            raise ValueError("a hub source needs `revision`: the commit to download")
        if kind != "hub" and (self.revision or self.patterns):
            raise ValueError("`revision` and `patterns` belong to a hub source")
        return self


class TokenizerTraining(Section):
    """A byte-level BPE tokenizer trained on part of the corpus; those documents are then left out of the counted tokens."""

    vocab_size: int = Field(description="Size of the vocabulary, EOT included.", ge=258, le=2**32 - 1)
    fraction: float = Field(
        0.1, gt=0, lt=1, description="Fraction of the documents (a seeded draw) that the tokenizer is trained on. They are excluded from m."
    )


class Tokenizer(Section):
    """How text becomes token ids: exactly one of `train`, `file`, `hub`, `gpt2`, `sentencepiece`."""

    train: TokenizerTraining | None = Field(None, description="Train a byte-level BPE tokenizer on a seeded part of the corpus.")
    file: str | None = Field(None, description="A local tokenizer.json (Hugging Face tokenizers).")
    hub: str | None = Field(None, description="A tokenizer on the hub, 'owner/name': its tokenizer.json, or its tokenizer.model.")
    revision: Commit | None = Field(None, description="Commit of the hub tokenizer, 40 hexadecimal digits; required with `hub`.")
    gpt2: str | None = Field(None, description="Folder with GPT-2's encoder.json and vocab.bpe.")
    sentencepiece: str | None = Field(None, description="A SentencePiece tokenizer.model.")

    @model_validator(mode="after")
    def _check(self):
        kind = self._exactly_one("train", "file", "hub", "gpt2", "sentencepiece")
        if (kind == "hub") != bool(self.revision):
            raise ValueError("`revision` (the commit to download) goes with a hub tokenizer, and a hub tokenizer needs it")
        return self


class Split(Section):
    """Which documents are held out for validation. They are not counted in m."""

    val: float = Field(0.0, ge=0, lt=1, description="Fraction of all documents held out for validation (rounded up to whole documents).")
    seed: int = Field(2357, ge=0, description="Seed of the split's permutation.")


class Corpus(Section):
    """A tokenized corpus: documents joined by end-of-text tokens."""

    source: Source = Field(description="Where the documents come from.")
    tokenizer: Tokenizer = Field(description="How text becomes token ids.")
    eot: str = Field("<|endoftext|>", min_length=1, description="The end-of-text token appended to each document.")
    split: Split = Field(Split(), description="The validation split.")
    shards: PositiveInt = Field(1, description="Number of token shards; each is tokenized by its own job.")
    empty_documents: Literal["error", "skip"] = Field("error", description="What to do with a document without text.")


class Sampling(Section):
    """Which tokens are scored to estimate the empirical risk."""

    mode: Literal["token", "window"] = Field("token", description="Draw single tokens, or windows of consecutive tokens.")
    n: PositiveInt = Field(10000, description="Number of draws (tokens or windows), uniform with replacement.")
    context_length: PositiveInt = Field(
        1024, description="Most tokens of context that a prediction may use; in window mode, most tokens fed per window."
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


class Model(Section):
    """A model family member and how it is obtained."""

    family: Literal["gpt"] = Field(description="Model family.")
    corpus: Name = Field(description="The corpus it is trained on.")
    architecture: Architecture = Field(description="Its shape.")
    training: Training = Field(description="How it is trained.")
    start_token: Literal["first", "always"] = Field(
        "first",
        description="Who sees a leading EOT: a document's first token, or every prediction whose context reaches the document's start.",
    )

    @model_validator(mode="after")
    def _check(self):
        length, longest = self.training.sequence_length, self.architecture.context_length
        if length is not None and length > longest:
            raise ValueError(f"training.sequence_length {length} is longer than architecture.context_length {longest}")
        return self


class Codec(Section):
    """How a model becomes a message whose length is its complexity."""

    kind: Literal["levels"] = Field("levels", description="Scalar quantization, then range coding.")
    levels: int = Field(11, ge=2, le=65536, description="Number of quantization levels.")
    method: Literal["uniform", "kmeans"] = Field("uniform", description="Uniform bins or k-means.")
    codebook: Literal["tensor", "shared"] = Field("tensor", description="A codebook per tensor, or one for all.")


class Scoring(Section):
    """How the drawn tokens are scored. Changes nothing in the records beyond rounding."""

    parts: PositiveInt = Field(1, description="Number of scoring jobs per model.")
    batch_tokens: PositiveInt = Field(16384, description="Most tokens per batch, padding included.")
    device: str = Field("auto", description="torch device, or auto: a GPU if there is one.")
    threads: PositiveInt = Field(2, description="CPU threads per scoring job.")


# ---------------------------------------------------------------- bounds and outputs


def _check_grid(values):
    if len(set(values)) != len(values):
        raise ValueError(f"grid {values} holds a value twice: it would be paid for twice")
    return values


Grid = AfterValidator(_check_grid)


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


class Row(Section):
    """One line of a table: a model, coded, on a corpus."""

    label: str = Field(description="What the table calls it.")
    model: Name = Field(description="A key of `models`.")
    codec: Name = Field(description="A key of `codecs`.")
    corpus: Name = Field(description="A key of `corpora`: whose tokens the bound is about.")
    sampling: Name | None = Field(None, description="A key of `samplings`; default: the scheme under `sampling`.")


class Table(Section):
    """A table of the paper."""

    caption: str = Field("", description="Its caption.")
    rows: list[Row] = Field(min_length=1, description="Its rows, in order; the random guess is added below.")
    top_k: list[PositiveInt] = Field([1, 10, 100], description="Which top-k errors get a column.")


class Figure(Section):
    """A figure drawn from a table's rows: bound and training loss against compressed size."""

    series: dict[str, list[Row]] = Field(min_length=1, description="Legend label: its rows.")


class Config(Section):
    """A run: everything that decides its numbers."""

    run: Name = Field(description="Name of the run: its folder under results/.")
    seed: int = Field(137, ge=0, description="The one seed; every use of randomness has its own stream derived from it.")
    delta: Probability = Field(0.05, description="Failure probability of each bound.")
    sampling: Sampling = Field(Sampling(), description="How tokens are drawn, unless a row says otherwise.")
    samplings: dict[Name, Sampling] = Field({}, description="Further sampling schemes, by name, for rows that ask for one.")
    corpora: dict[Name, Corpus] = Field(description="Corpora by name.")
    models: dict[Name, Model] = Field(description="Models by name.")
    codecs: dict[Name, Codec] = Field(description="Codecs by name.")
    scoring: Scoring = Field(Scoring(), description="How tokens are scored.")
    bounds: Bounds = Field(Bounds(), description="What is bounded.")
    tables: dict[Name, Table] = Field({}, description="Tables by name.")
    figures: dict[Name, Figure] = Field({}, description="Figures by name.")

    @model_validator(mode="after")
    def _check(self):
        if self.sampling.mode in self.samplings:
            raise ValueError(f"samplings.{self.sampling.mode}: this name means the scheme under `sampling`, choose another")
        for name, model in self.models.items():
            _known(f"models.{name}.corpus", model.corpus, self.corpora)
        for where, row in self.rows():
            for key, names in (("model", self.models), ("codec", self.codecs), ("corpus", self.corpora)):
                _known(f"{where}.{key}", getattr(row, key), names)
            if row.sampling is not None:
                _known(f"{where}.sampling", row.sampling, self.schemes)
            self._check_scheme(where, row)
        for name, table in self.tables.items():
            for k in table.top_k:
                if k not in self.bounds.top_k:
                    raise ValueError(f"tables.{name}.top_k: no bound for k = {k}; expected one of bounds.top_k, {self.bounds.top_k}")
        return self

    def _check_scheme(self, where, row):
        name = row.sampling or self.sampling.mode
        scheme, longest = self.schemes[name], self.models[row.model].architecture.context_length
        if scheme.window is not None and scheme.window > longest:
            limit = f"context_length {longest} of models.{row.model}.architecture"
            raise ValueError(f"{where}: window {scheme.window} of sampling '{name}' is longer than {limit}")
        if self.scoring.parts > scheme.n:
            raise ValueError(f"scoring.parts {self.scoring.parts} is more than the n = {scheme.n} draws of sampling '{name}' ({where})")

    @property
    def schemes(self):
        """All sampling schemes by name; the default's name is its mode."""
        return {self.sampling.mode: self.sampling, **self.samplings}

    @property
    def contexts(self):
        """What each sampling scheme lets a prediction see, by name. The message lists them all: they are part of the hypothesis."""
        return {name: slice_of(scheme, include={"mode", "context_length", "window"}) for name, scheme in self.schemes.items()}

    def rows(self):
        """(where, row) for every row of every table and figure."""
        for name, table in self.tables.items():
            yield from ((f"tables.{name}.rows[{i}]", row) for i, row in enumerate(table.rows))
        for name, figure in self.figures.items():
            for label, rows in figure.series.items():
                yield from ((f"figures.{name}.series.{label}[{i}]", row) for i, row in enumerate(rows))

    def certificate_name(self, row):
        """``model.codec.corpus.sampling``: the stem of the row's records and certificate."""
        return ".".join([row.model, row.codec, row.corpus, row.sampling or self.sampling.mode])

    def choices_bits(self):
        """Choices that the message does not hold, in bits, itemised: log2 of how many could have been made (docs/theory.md, section 2).

        The sampling schemes define how much context the hypothesis sees, and the message lists them all; a certificate is about one of
        them. The α grid and the grids of the betting bound are paid for by the bound functions themselves.
        """
        return {"sampling scheme": math.log2(len(self.schemes))}


def _known(where, value, names):
    if value not in names:
        raise ValueError(
            f"{where}: '{value}' is not defined{_nearest(value, names)}; expected one of {', '.join(names) or '(none defined)'}"
        )


def _nearest(word, candidates):
    close = difflib.get_close_matches(str(word), list(candidates), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _keys_at(location):
    """Valid keys of the section that holds `location` (the schema is followed, dictionaries by name are stepped over)."""
    section = Config
    for part in location[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel) and part in section.model_fields:
            section = section.model_fields[part].annotation
        for inner in _sections_in(section):
            section = inner
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def _sections_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _sections_in(argument)][:1]


def slice_of(section, *, include=None, exclude=None):
    """Part of a section as plain JSON data: what a rule passes to its script, so that other keys do not make its output stale."""
    return section.model_dump(mode="json", exclude_none=True, include=include, exclude=exclude)


def _without_nulls(data):
    """Drop keys whose value is null: an overlay removes an entry of the configuration below it by setting it to null."""
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    return [_without_nulls(value) for value in data] if isinstance(data, list) else data


def parse_config(data: Any, name="config") -> Config:
    """Check a configuration (nested dictionaries, as read from YAML) against the schema.

    A null value counts as absent, so that an overlay can remove what lies below it.

    Raises
    ------
    InputError
        One line: the key, the value found and what was expected, with the nearest valid key for an unknown one.
    """
    try:
        return Config.model_validate(_without_nulls(data))
    except ValidationError as error:
        # A misspelt key is also a missing one: say what it is, not what follows from it.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        location = [part for part in first["loc"] if part != "[key]"]
        where = ".".join(map(str, location)) or "the configuration"
        if first["type"] == "extra_forbidden":
            keys = _keys_at(location)
            hint = _nearest(location[-1], keys)
            raise InputError(
                f"{name}: unknown key '{where}' (value {_short(first['input'])}){hint}; valid keys: {', '.join(keys)}"
            ) from None
        if first["type"] == "missing":
            raise InputError(f"{name}: '{where}' is missing") from None
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] == "value_error" else f" (found {_short(first['input'])})"
        raise InputError(f"{name}: {where}: {message}{value}") from None


def _short(value):
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def load_config(*paths) -> Config:
    """Read YAML files, each laid over the one before (nested mappings are merged, anything else is replaced, as Snakemake does)."""
    import yaml

    merged: dict = {}
    for path in paths:
        try:
            overlay = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
        if not isinstance(overlay, dict):
            raise InputError(f"{path}: a {type(overlay).__name__}; expected keys with values")
        _merge(merged, overlay)
    return parse_config(merged, " + ".join(map(str, paths)))


def _merge(base, overlay):
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def json_schema():
    """JSON schema of the configuration, as committed in docs/config.schema.json."""
    return Config.model_json_schema()


if __name__ == "__main__":
    write_json(Path(__file__).parent.parent / "docs/config.schema.json", json_schema())
