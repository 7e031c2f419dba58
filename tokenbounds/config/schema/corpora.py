"""Corpora, tokenizers and sampling schemes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.config.schema.base import Commit, Name, Section


def _check_vocabulary(tokens):
    if "" in tokens or len(set(tokens)) != len(tokens):
        raise ValueError("an empty token, or one that is listed twice; expected different tokens")
    return tokens


class Sequences(Section):
    """Sequences of integers, a document each (paper, B.6): the values of expression trees, or random ones of
    the same integers."""

    complexity: int = Field(
        ge=0,
        le=6,
        description="Least number of operators of a tree that gives a sequence; 984 sequences for 4.",
    )
    length: PositiveInt = Field(30, description="Integers per sequence.")
    random: bool = Field(
        False,
        description="Random sequences instead: as many, of integers drawn from those of the structured ones.",
    )


class SyntheticRepertoire(Section):
    """A made-up antibody repertoire: no sequence is real."""

    families: PositiveInt = Field(description="Number of clonal families.")
    seed: int = Field(0, ge=0, description="Seed of its germline, recombinations and mutations.")


class Antibodies(Section):
    """Clonal families of antibodies, a document each (paper, B.9): exactly one of `units`, `families`,
    `synthetic`."""

    units: list[str] | None = Field(
        None,
        min_length=1,
        description="Data units of Observed Antibody Space (.csv, .csv.gz; paths or globs). Families are "
        "grouped here: same subject, V gene, J gene, junction length, and single linkage of the junctions.",
    )
    families: list[str] | None = Field(
        None,
        min_length=1,
        description="Csv files of families found by another program such as FastBCR (paths or globs) with "
        "column sequence_alignment_aa: a family per value of column clone_id, or per file without this one.",
    )
    synthetic: SyntheticRepertoire | None = Field(
        None, description="A synthetic repertoire, made by this run."
    )
    min_family: int = Field(
        25, ge=1, description="Least number of different sequences of a family that is kept."
    )
    max_tokens: int = Field(
        2048,
        ge=3,
        description="Most tokens of a document, end token included; members that do not fit are left out, "
        "none is cut.",
    )
    hamming: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Largest Hamming distance of linked junctions of units, as a fraction of their length.",
    )
    species: str = Field("human", description="Species of the units; units of others are left out.")
    chain: str = Field("Heavy", description="Chain of the units; units of others are left out.")

    @property
    def kind(self):
        """Name of the given key."""
        return self._exactly_one("units", "families", "synthetic")

    @model_validator(mode="after")
    def _check(self):
        _ = self.kind
        return self


class Source(Section):
    """Source of documents: exactly one of `installed`, `files`, `hub`, `sequences`, `antibodies`."""

    installed: list[str] | None = Field(
        None,
        min_length=1,
        description="Installed Python packages: each non-empty .py file of a package's file list is a "
        "document, in sorted order.",
    )
    files: list[str] | None = Field(
        None,
        min_length=1,
        description="Local files, as paths or globs: .txt (a document each), .jsonl, .json, .parquet; "
        ".gz and .zst are read through.",
    )
    hub: str | None = Field(None, description="A dataset on the Hugging Face hub, 'owner/name'.")
    sequences: Sequences | None = Field(
        None, description="Integer sequences made by this run: digits, and a comma between two integers."
    )
    antibodies: Antibodies | None = Field(
        None, description="Clonal families of antibodies, their members joined by [ClSep]."
    )
    revision: Commit | None = Field(
        None,
        description="Commit of the hub dataset, 40 hexadecimal digits; required with `hub`: the data cannot "
        "change under the bound. Or `latest`: the newest commit when it is first downloaded; the manifest "
        "(download.json) names it.",
    )
    patterns: list[str] | None = Field(
        None,
        description="Files of the hub dataset to use (globs); default: every .parquet, .jsonl, .json and "
        ".txt file.",
    )
    exclude: list[str] = Field(
        [],
        description="Globs of files to leave out, matched against paths in the package, folder or dataset.",
    )
    field: str | list[str] = Field(
        "text",
        min_length=1,
        description="Field (jsonl, json) or column (parquet) that holds a document's text; of several, the "
        "first that a row has.",
    )
    eot_id: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="Id of `eot`, for .jsonl rows whose `field` holds token ids in place of text (LLM360's "
        "prepared data). Documents end at this id, within rows, and continue over rows; at the end of a file "
        "one ends in any case.",
    )
    extract: Literal["all", "docstrings"] = Field(
        "all",
        description="Part of a document that is its text: all, or of Python source the docstrings, joined by "
        "blank lines.",
    )

    @model_validator(mode="after")
    def _check(self):
        kind = self._exactly_one("installed", "files", "hub", "sequences", "antibodies")
        if kind == "hub" and not self.revision:
            raise ValueError("a hub source needs `revision`: the commit to download")
        if kind != "hub" and (self.revision or self.patterns):
            raise ValueError("`revision` and `patterns` belong to a hub source")
        if self.eot_id is not None and (kind not in ("files", "hub") or self.extract != "all"):
            raise ValueError("`eot_id` (rows of token ids) belongs to `files` or `hub`, without `extract`")
        return self

    @property
    def made(self):
        """The file, below the corpus's folder, to which this run writes the documents before it counts them;
        None if it does not make them."""
        return "sequences.jsonl" if self.sequences else "families.jsonl" if self.antibodies else None


class TokenizerTraining(Section):
    """A byte-level BPE tokenizer trained on part of the corpus; those documents are then left out of the
    counted tokens."""

    vocab_size: int = Field(description="Size of the vocabulary, EOT included.", ge=258, le=2**32 - 1)
    fraction: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Fraction of the documents (a seeded draw) that the tokenizer is trained on. They are "
        "excluded from m.",
    )


class Tokenizer(Section):
    """Conversion of text to token ids: exactly one of `train`, `corpus`, `model`, `file`, `hub`, `gpt2`,
    `sentencepiece`, `vocabulary`."""

    train: TokenizerTraining | None = Field(
        None, description="Training of a byte-level BPE tokenizer on a seeded part of the corpus."
    )
    corpus: Name | None = Field(
        None, description="The tokenizer of another corpus, so that a model of one can be used on the other."
    )
    model: Name | None = Field(
        None, description="The tokenizer in the file of a model of family gguf, given by its name."
    )
    file: str | None = Field(None, description="A local tokenizer.json (Hugging Face tokenizers).")
    hub: str | None = Field(
        None, description="A tokenizer on the hub, 'owner/name': its tokenizer.json, or its tokenizer.model."
    )
    revision: Commit | None = Field(
        None, description="Commit of the hub tokenizer, or `latest`, as for a source; required with `hub`."
    )
    gpt2: str | None = Field(None, description="Folder with GPT-2's encoder.json and vocab.bpe.")
    sentencepiece: str | None = Field(None, description="A SentencePiece tokenizer.model.")
    vocabulary: Annotated[list[str], AfterValidator(_check_vocabulary)] | None = Field(
        None,
        min_length=2,
        description="All tokens as written, EOT among them; a token's id is its place, and text is made of "
        "these only.",
    )

    standing: Literal["paid", "assumed"] = Field(
        "paid",
        description="Of a tokenizer that was made elsewhere: `paid`, its compressed files are part of the "
        "complexity; or `assumed`, it was fixed before the corpus, which every certificate then says. A "
        "tokenizer that is trained here, or that the program defines, costs nothing.",
    )
    fixed_before: str | None = Field(
        None,
        min_length=1,
        max_length=300,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Why the tokenizer was fixed before the corpus, in a sentence; goes with `standing: "
        "assumed`.",
    )

    @property
    def kind(self):
        """Name of the given key."""
        return self._exactly_one(
            "train", "corpus", "model", "file", "hub", "gpt2", "sentencepiece", "vocabulary"
        )

    @model_validator(mode="after")
    def _check(self):
        kind = self.kind
        if (self.standing == "assumed") != (self.fixed_before is not None):
            raise ValueError(
                "`fixed_before` (why the tokenizer was there before the corpus) goes with "
                "`standing: assumed`, which needs it"
            )
        if kind == "train" and self.standing != "paid":
            raise ValueError("a tokenizer that is trained here, on left-out documents, has nothing to assume")
        if (kind == "hub") != bool(self.revision):
            raise ValueError(
                "`revision` (the commit to download) goes with a hub tokenizer, and a hub tokenizer needs it"
            )
        return self


class Split(Section):
    """Documents held out for validation. They are not counted in m."""

    val: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of all documents held out for validation (rounded up to whole documents).",
    )
    seed: int = Field(2357, ge=0, description="Seed of the split's permutation.")


class ExpectedCorpus(Section):
    """Size of a corpus, as known before the download."""

    tokens: PositiveFloat = Field(description="Number of tokens.")
    gigabytes: PositiveFloat | None = Field(None, description="Size of the download in 1e9 bytes.")


class Corpus(Section):
    """A tokenized corpus: documents joined by end-of-text tokens."""

    source: Source = Field(description="Source of the documents.")
    tokenizer: Tokenizer = Field(description="Conversion of text to token ids.")
    eot: str | None = Field(
        None,
        min_length=1,
        description="The end-of-text token appended to each document; default that of the GGUF file with "
        "`tokenizer.model`, else <|endoftext|>.",
    )
    split: Split = Field(Split(), description="The validation split.")
    shards: PositiveInt = Field(1, description="Number of token shards; each is tokenized by its own job.")
    empty_documents: Literal["error", "skip"] = Field(
        "error", description="Treatment of documents without text."
    )
    expected: ExpectedCorpus | None = Field(
        None, description="Expected size, for `tokenbounds plan` only: it changes no result."
    )

    @model_validator(mode="after")
    def _check(self):
        if self.source.eot_id is not None and self.tokenizer.train is not None:
            raise ValueError("tokenizer.train needs text, but with source.eot_id the documents are token ids")
        return self


class Sampling(Section):
    """Scheme for drawing the tokens that are scored to estimate the empirical risk."""

    mode: Literal["token", "window", "document"] = Field(
        "token",
        description="Unit of a draw: a token, a window of consecutive tokens, or a document (for "
        "document-level bounds).",
    )
    n: PositiveInt = Field(
        10000, description="Number of draws (tokens, windows or documents), uniform with replacement."
    )
    context_length: PositiveInt = Field(
        1024,
        description="Most tokens of context that a prediction may use; in window mode, most tokens fed per "
        "window; in document mode, number of first tokens of a document that make up its loss.",
    )
    window: PositiveInt | None = Field(
        None, description="Window mode: number of consecutive tokens scored per window (S)."
    )
    beacon: Annotated[str, Field(max_length=1000)] = Field(
        "",
        description="A public random value, not known when message and index were fixed, from which the "
        "draws are derived besides them (`tokenbounds commit`).",
    )

    @model_validator(mode="after")
    def _check(self):
        if (self.mode == "window") != (self.window is not None):
            raise ValueError(
                "`window` (tokens scored per window) goes with mode: window, and window mode needs it"
            )
        if self.window is not None and self.window > self.context_length:
            raise ValueError(f"window {self.window} is longer than context_length {self.context_length}")
        return self
