"""The configuration: one closed, described schema.

Every key has a description, unknown keys are errors that name the nearest valid key, and cross references (a row's model, codec, corpus)
are checked when the configuration is read, before any job starts. ``docs/config.schema.json`` is generated from these classes
(``python -m tokenbounds.config``); a test fails when it drifts.

Importing this module does not import torch: the Snakefile reads the configuration in every cluster job.
"""

import difflib
import itertools
import math
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator

from tokenbounds.errors import InputError
from tokenbounds.files import is_excluded, write_json
from tokenbounds.sections import (
    PUBLISHED,
    Bounds,
    Codec,
    Corpus,
    Figure,
    Model,
    Name,
    Probability,
    Row,
    Sampling,
    Scoring,
    Section,
    Table,
    slice_of,
)
from tokenbounds.sweeps import expand_sweeps, short


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
    accept_bad_models: bool = Field(
        False, description="Go on with published models that lose more than half of the random guess on 20 documents; tables flag them."
    )
    bounds: Bounds = Field(Bounds(), description="What is bounded.")
    tables: dict[Name, Table] = Field({}, description="Tables by name.")
    figures: dict[Name, Figure] = Field({}, description="Figures by name.")

    @model_validator(mode="after")
    def _check(self):
        if self.sampling.mode in self.samplings:
            raise ValueError(f"samplings.{self.sampling.mode}: this name means the scheme under `sampling`, choose another")
        for name, corpus in self.corpora.items():
            if corpus.tokenizer.corpus is not None:
                # one step only: a tokenizer that is itself another's would hide whose documents it was made from
                own = [other for other, found in self.corpora.items() if found.tokenizer.corpus is None]
                _known(f"corpora.{name}.tokenizer.corpus", corpus.tokenizer.corpus, own)
        for name, model in self.models.items():
            _known(f"models.{name}.corpus", model.corpus, self.corpora)
            self._check_start(name, model)
        for name, codec in self.codecs.items():
            if codec.kind == "alpha_head":
                if self.sampling.mode != "token":
                    raise ValueError(
                        f"codecs.{name}: heads are trained on single tokens; expected sampling.mode token, found {self.sampling.mode}"
                    )
                bases = [other for other, found in self.codecs.items() if found.kind not in ("alpha_head", "zip", "counts")]
                _known(f"codecs.{name}.base", codec.base, bases)
        for where, row in self.rows():
            for key, names in (("model", self.models), ("codec", self.codecs)):
                for value in getattr(row, key):
                    _known(f"{where}.{key}", value, names)
            _known(f"{where}.corpus", row.corpus, self.corpora)
            if row.sampling is not None:
                _known(f"{where}.sampling", row.sampling, self.schemes)
            self._check_scheme(where, row)
            self._check_message(where, row)
        for name, table in self.tables.items():
            for k in table.top_k:
                if k not in self.bounds.top_k:
                    raise ValueError(f"tables.{name}.top_k: no bound for k = {k}; expected one of bounds.top_k, {self.bounds.top_k}")
            if table.validation_loss:
                self._check_validation(name, table)
        for name, figure in self.figures.items():
            for where, model in figure.models():
                _known(f"figures.{name}.{where}", model, self.models)
            if figure.kind == "smoothing":
                for i, row in enumerate(figure.heads):
                    if any(self.codecs[codec].kind != "alpha_head" for codec in row.codec):
                        raise ValueError(f"figures.{name}.heads[{i}].codec: {', '.join(row.codec)}; expected codecs of kind alpha_head")
                    if (mode := self.schemes[row.sampling or self.sampling.mode].mode) != "token":
                        raise ValueError(f"figures.{name}.heads[{i}].sampling: a scheme of mode {mode}; expected single tokens")
            if figure.kind == "meaning":
                self._check_meaning(f"figures.{name}", figure)
            for where, model in figure.models():
                if figure.kind == "recall" and not self.corpora[self.models[model].corpus].source.sequences:
                    of = f"models.{model} is trained on corpora.{self.models[model].corpus}"
                    raise ValueError(f"figures.{name}.{where}: {of}; expected a corpus of source.sequences")
                if self.models[model].family in (*PUBLISHED, "markov"):
                    raise ValueError(f"figures.{name}.{where}: '{model}' is not trained here; expected models with a training curve")
        return self

    def _check_meaning(self, where, figure):
        if figure.table in self.tables:
            raise ValueError(f"{where}.table: '{figure.table}' is one of `tables`; expected another name")
        if sum(other.kind == "meaning" and other.table == figure.table for other in self.figures.values()) > 1:
            raise ValueError(f"{where}.table: '{figure.table}' is the table of two figures; expected another name")
        for i, item in enumerate(figure.evaluated):
            _known(f"{where}.evaluated[{i}].model", item.model, self.models)
            _known(f"{where}.evaluated[{i}].codec", item.codec, self.codecs)
            self._check_message(f"{where}.evaluated[{i}]", Row(**slice_of(item), corpus=figure.generator.corpus))
        for i, item in enumerate(figure.downstream):
            if item.corpus is not None:
                _known(f"{where}.downstream[{i}].corpus", item.corpus, self.corpora)
        for key, row in figure.rows():
            if (mode := self.schemes[self.scheme_of(row)].mode) == "document" or (key == "generator" and mode != "token"):
                expected = "single tokens" if key == "generator" else "single tokens or windows"
                raise ValueError(f"{where}.{key}.sampling: a scheme of mode {mode}; expected {expected}")
        scheme = self.schemes[self.scheme_of(figure.generator)]
        for key, limit, of in (("draws", scheme.n, "n"), ("tokens", scheme.context_length, "context_length")):
            if getattr(figure, key) > limit:
                raise ValueError(f"{where}.{key}: {getattr(figure, key)}; expected at most the {of} of its sampling scheme, {limit}")

    @property
    def all_tables(self):
        """Names of all tables, those of figures among them."""
        return [*self.tables, *(figure.table for figure in self.figures.values() if figure.kind == "meaning")]

    def scheme_of(self, row):
        """Name of a row's sampling scheme."""
        return row.sampling or self.sampling.mode

    def _check_validation(self, name, table):
        for i, row in enumerate(table.rows):
            for model in row.model:
                where, section = f"tables.{name}.rows[{i}].model", self.models[model]
                if not hasattr(section, "training"):
                    raise ValueError(f"{where}: '{model}' is not trained here; expected trained models (key validation_loss)")
                if not self.corpora[section.corpus].split.val:
                    raise ValueError(f"{where}: corpora.{section.corpus} has no split.val to compute a validation loss on")

    def _check_start(self, name, model):
        seen = [name]
        while start := getattr(model, "start_from", None):
            _known(f"models.{seen[-1]}.start_from", start, self.models)
            if start in seen:
                raise ValueError(f"models.{name}.start_from: {' -> '.join([*seen, start])} is a circle")
            seen.append(start)
            model = self.models[start]

    def _check_scheme(self, where, row):
        name = row.sampling or self.sampling.mode
        scheme = self.schemes[name]
        for model in row.model:
            longest = self.models[model].longest
            if scheme.mode != "token" and (longest == 0 or getattr(self.models[model], "last_tokens", None) is not None):
                raise ValueError(f"{where}: models.{model} sees {longest} tokens of context; expected a sampling of mode token")
            if scheme.window is not None and longest is not None and scheme.window > longest:
                limit = f"context_length {longest} of models.{model}"
                raise ValueError(f"{where}: window {scheme.window} of sampling '{name}' is longer than {limit}")
        if self.scoring.parts > scheme.n:
            raise ValueError(f"scoring.parts {self.scoring.parts} is more than the n = {scheme.n} draws of sampling '{name}' ({where})")

    def _check_message(self, where, row):
        for model, codec in itertools.product(row.model, row.codec):
            family, kind = self.models[model].family, self.codecs[codec].kind
            if kind == "zip" and family not in PUBLISHED:
                raise ValueError(f"{where}.codec: '{codec}' compresses published files; '{model}' is of family {family}")
            if (family == "markov") != (kind == "counts"):
                raise ValueError(f"{where}.codec: '{codec}' of kind {kind} for '{model}' of family {family}; counts are of Markov chains")
            if family == "quip" and kind != "zip":
                raise ValueError(f"{where}.codec: '{codec}' of kind {kind} for the QuIP# files of '{model}'; expected a codec of kind zip")

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
            yield from ((f"figures.{name}.{where}", row) for where, row in figure.rows())

    def certificate_names(self, row):
        """``model.codec.corpus.sampling`` of each result that the row may show: the stems of their records and certificates."""
        return [
            ".".join([model, codec, row.corpus, row.sampling or self.sampling.mode])
            for model, codec in itertools.product(row.model, row.codec)
        ]

    def without_head(self, row):
        """A row with the codec that the smoothing head of its own codec is based on."""
        return row.model_copy(update={"codec": [self.codecs[codec].base for codec in row.codec]})

    def shown(self, figure):
        """Rows whose certificates a figure shows: with smoothing heads also those of the codecs that they are based on."""
        if figure.kind == "meaning":  # made from draws and records
            return []
        rows = [row for _, row in figure.rows()]
        return rows + [self.without_head(row) for row in rows] if figure.kind == "smoothing" else rows

    def candidates(self, certificate):
        """Of how many results a row picks the best, this certificate's among them: they share the draws' part of delta."""
        counts = [len(names) for names in (self.certificate_names(row) for _, row in self.rows()) if certificate in names]
        return self.bounds.candidates * max(counts, default=1)

    def choices_bits(self):
        """Choices that the message does not hold, in bits, itemised: log2 of how many could have been made (docs/theory.md, section 2).

        The sampling schemes define how much context the hypothesis sees, and the message lists them all; a certificate is about one of
        them. The α grid and the grids of the betting bound are paid for by the bound functions themselves. Which of several models or
        codecs a row shows costs none: the message names its own.
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


def _followed(location):
    """A location without the kinds that choose between sections, and the sections that it leads to, as far as it is known."""
    sections, kept, keys = [Config], [], 0  # keys: of a dictionary or a list, before a section
    for part in location:
        fields = sections[0].model_fields
        chosen = [section for section in sections if len(sections) > 1 and part in _kinds(section)]
        if chosen and not keys:
            sections = chosen
            continue
        kept.append(part)
        if keys:
            keys -= 1
        elif part in fields:
            sections = _sections_in(fields[part].annotation) or sections
            keys = _containers(fields[part].annotation)
    return kept, sections


def _containers(annotation):
    """How many dictionaries and lists a field's type nests around its sections."""
    inner = [argument for argument in get_args(annotation) if _sections_in(argument)]
    return (get_origin(annotation) in (dict, list)) + (_containers(inner[0]) if inner else 0)


def _kinds(section):
    """Values of the key `kind` or `family` that mean this section."""
    kind = section.model_fields.get("kind") or section.model_fields.get("family")
    return get_args(kind.annotation) if kind else ()


def _sections_in(annotation):
    """The sections that a field's type is made of, dictionaries and lists looked into."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _sections_in(argument)]


def _without_nulls(data):
    """Drop keys whose value is null, and those that match a key with `*` whose value is null: so an overlay removes what lies below it."""
    if isinstance(data, dict):
        globs = [key for key, value in data.items() if value is None and "*" in str(key)]
        kept = {key: value for key, value in data.items() if value is not None and not is_excluded(str(key), globs)}
        return {key: _without_nulls(value) for key, value in kept.items()}
    return [_without_nulls(value) for value in data] if isinstance(data, list) else data


def parse_config(data: Any, name="config") -> Config:
    """Check a configuration (nested dictionaries, as read from YAML) against the schema.

    A null value counts as absent, so that an overlay can remove what lies below it: ``gpt2-lora: null`` one entry, ``gpt2-*: null`` all
    that match.

    Raises
    ------
    InputError
        One line: the key, the value found and what was expected, with the nearest valid key for an unknown one.
    """
    try:
        return Config.model_validate(expand_sweeps(_without_nulls(data), name))
    except ValidationError as error:
        # A misspelt key is also a missing one: say what it is, not what follows from it.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        location, sections = _followed([part for part in first["loc"] if part != "[key]"])
        where = ".".join(map(str, location)) or "the configuration"
        if first["type"] == "extra_forbidden":
            keys = list(sections[0].model_fields)  # of the section that holds it: the key itself leads nowhere
            hint = _nearest(location[-1], keys)
            raise InputError(
                f"{name}: unknown key '{where}' (value {short(first['input'])}){hint}; valid keys: {', '.join(keys)}"
            ) from None
        if first["type"] == "missing":
            raise InputError(f"{name}: '{where}' is missing") from None
        if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
            kinds = " or ".join(kind for section in sections for kind in _kinds(section))
            key = first["ctx"]["discriminator"].strip("'")
            found = first["input"].get(key) if isinstance(first["input"], dict) else first["input"]
            raise InputError(f"{name}: {where}.{key}: found {short(found)}; expected {kinds}") from None
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] == "value_error" else f" (found {short(first['input'])})"
        raise InputError(f"{name}: {where}: {message}{value}") from None


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
