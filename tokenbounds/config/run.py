"""The whole configuration of a run, its cross-checks, and the files that it names."""

import itertools
import math

from pydantic import Field, model_validator

from tokenbounds.config.schema import (
    Bounds,
    Codec,
    Corpus,
    Figure,
    Model,
    Name,
    Probability,
    Sampling,
    Scoring,
    Section,
    Table,
    known,
    slice_of,
)
from tokenbounds.io.files import canonical_json


class Config(Section):
    """A run: everything that determines its numbers."""

    standalone: bool = Field(
        False, description="Whether this configuration stands alone: config.yaml is then not read below it."
    )
    run: Name = Field(description="Name of the run: its folder under results/.")
    seed: int = Field(
        137, ge=0, description="Seed of all randomness; each use has its own stream, derived from it."
    )
    delta: Probability = Field(0.05, description="Failure probability of each bound.")
    sampling: Sampling = Field(
        Sampling(), description="Drawing of tokens, unless a row names another scheme."
    )
    samplings: dict[Name, Sampling] = Field(
        {}, description="Further sampling schemes by name, for rows that name one."
    )
    corpora: dict[Name, Corpus] = Field(description="Corpora by name.")
    models: dict[Name, Model] = Field(description="Models by name.")
    codecs: dict[Name, Codec] = Field(description="Codecs by name.")
    scoring: Scoring = Field(Scoring(), description="Scoring of drawn tokens.")
    accept_bad_models: bool = Field(
        False,
        description="Use of published models whose loss on 20 documents is above their `sanity_limit`, or "
        "further than their `sanity_damage` above that of the undamaged model; tables flag them.",
    )
    bounds: Bounds = Field(Bounds(), description="Metrics, grids and candidates of the bounds.")
    tables: dict[Name, Table] = Field({}, description="Tables by name.")
    figures: dict[Name, Figure] = Field({}, description="Figures by name.")

    # ---------------------------------------------------------------- checks

    @model_validator(mode="after")
    def _check(self):
        if self.sampling.mode in self.samplings:
            raise ValueError(
                f"samplings.{self.sampling.mode}: this name means the scheme under `sampling`, choose another"
            )
        self._check_corpora()
        self._check_models()
        self._check_codecs()
        for place, row in self.rows():
            for key, names in (("model", self.models), ("codec", self.codecs)):
                for value in getattr(row, key):
                    known(f"{place}.{key}", value, names)
            known(f"{place}.corpus", row.corpus, self.corpora)
            if row.sampling is not None:
                known(f"{place}.sampling", row.sampling, self.schemes)
            self._check_scheme(place, row)
            for model, codec in row.hypotheses():
                self.check_message(place, model, codec)
        for name, table in self.tables.items():
            for k in table.top_k:
                if k not in self.bounds.top_k:
                    expected = f"expected one of bounds.top_k, {self.bounds.top_k}"
                    raise ValueError(f"tables.{name}.top_k: no bound for k = {k}; {expected}")
            if table.validation_loss:
                self._check_validation(name, table)
        self._check_figures()
        return self

    def _check_corpora(self):
        for name, corpus in self.corpora.items():
            if corpus.tokenizer.corpus is not None:
                # one step only: with a chain of references one could not see whose documents it was made from
                own = [other for other, section in self.corpora.items() if section.tokenizer.corpus is None]
                known(f"corpora.{name}.tokenizer.corpus", corpus.tokenizer.corpus, own)
            if corpus.tokenizer.model is not None:
                files = [other for other, section in self.models.items() if section.family == "gguf"]
                known(f"corpora.{name}.tokenizer.model", corpus.tokenizer.model, files)

    def _check_models(self):
        for name, model in self.models.items():
            known(f"models.{name}.corpus", model.corpus, self.corpora)
            seen = [name]
            while start := getattr(model, "start_from", None):
                known(f"models.{seen[-1]}.start_from", start, self.models)
                if start in seen:
                    raise ValueError(f"models.{name}.start_from: {' -> '.join([*seen, start])} is a cycle")
                seen.append(start)
                model = self.models[start]

    def _check_codecs(self):
        for name, codec in self.codecs.items():
            if codec.implementation is not None:
                continue
            if self.sampling.mode != "token":
                mode = self.sampling.mode
                expected = f"expected sampling.mode token, found {mode}"
                raise ValueError(f"codecs.{name}: heads are trained on single tokens; {expected}")
            known(
                f"codecs.{name}.base",
                codec.base,
                [other for other, section in self.codecs.items() if section.takes_head],
            )

    def _check_figures(self):
        tables = dict.fromkeys(self.tables)
        for name, figure in self.figures.items():
            for place, model in figure.models():
                known(f"figures.{name}.{place}", model, self.models)
            for table in figure.tables(name):
                if table in tables:
                    other = f"the table of figures.{tables[table]}" if tables[table] else "one of `tables`"
                    raise ValueError(f"figures.{name}.table: '{table}' is {other} too; expected another name")
                tables[table] = name
            figure.check(self, f"figures.{name}")

    def _check_validation(self, name, table):
        for i, row in enumerate(table.rows):
            for model in row.model:
                place, section = f"tables.{name}.rows[{i}].model", self.models[model]
                if not section.trained:
                    expected = "expected trained models (key validation_loss)"
                    raise ValueError(f"{place}: '{model}' is not trained here; {expected}")
                if not self.corpora[section.corpus].split.val:
                    raise ValueError(
                        f"{place}: corpora.{section.corpus} has no split.val to compute a validation loss on"
                    )

    def _check_scheme(self, place, row):
        name = self.scheme_of(row)
        scheme = self.schemes[name]
        for model in row.model:
            longest = self.models[model].longest
            if scheme.mode != "token" and (
                longest == 0 or getattr(self.models[model], "last_tokens", None) is not None
            ):
                expected = "expected a sampling of mode token"
                raise ValueError(f"{place}: models.{model} sees {longest} tokens of context; {expected}")
            if scheme.window is not None and longest is not None and scheme.window > longest:
                limit = f"context_length {longest} of models.{model}"
                raise ValueError(
                    f"{place}: window {scheme.window} of sampling '{name}' is longer than {limit}"
                )
        if self.scoring.parts > scheme.n:
            draws = f"the n = {scheme.n} draws of sampling '{name}' ({place})"
            raise ValueError(f"scoring.parts {self.scoring.parts} is more than {draws}")

    def check_message(self, place, model, codec):
        """Refuse, with a ValueError, a codec that does not code models of a family."""
        section = self.codecs[codec]
        if section.implementation is None:
            self.check_message(place, model, section.base)
        if not section.encodes(self.models[model]):
            family = self.models[model].family
            raise ValueError(
                f"{place}.codec: '{codec}' codes {section.expected()}; '{model}' is of family {family}"
            )

    # ---------------------------------------------------------------- names

    @property
    def every_table(self):
        """All tables by name, those of figures among them."""
        return self.tables | {
            name: table for key, figure in self.figures.items() for name, table in figure.tables(key).items()
        }

    @property
    def schemes(self):
        """All sampling schemes by name; the default's name is its mode."""
        return {self.sampling.mode: self.sampling, **self.samplings}

    def scheme_of(self, row):
        """Return the name of a row's sampling scheme."""
        return row.sampling or self.sampling.mode

    def context(self, scheme):
        """Return the entry of a sampling scheme, given by name, in a message: how much a prediction sees."""
        return slice_of(self.schemes[scheme], include={"mode", "context_length", "window"})

    def scheme(self, name):
        """Return how the draws of a sampling scheme are made: its context, ``n`` and ``beacon``."""
        return slice_of(self.schemes[name])

    def bounds_settings(self, certificate):
        """Return the `bounds` section for a certificate, given by name: where a row takes the best of several
        results, these share the draws' delta."""
        return {**slice_of(self.bounds), "candidates": self.candidates(certificate)}

    def contexts(self, model):
        """Return how the predictions of a model are computed, which is part of the hypothesis and of its
        message.

        Returns
        -------
        dict
            ``arithmetic``, and ``schemes``: the contexts of all sampling schemes, each once, sorted. No name
            is among them: a message holds nothing that does not change predictions.
        """
        entries = {canonical_json(self.context(name)): self.context(name) for name in self.schemes}
        arithmetic = self.models[model].arithmetic or self.scoring.arithmetic
        return {"arithmetic": slice_of(arithmetic), "schemes": [entries[key] for key in sorted(entries)]}

    def rows(self):
        """Yield (place, row) for every row of every table and figure."""
        for name, table in self.tables.items():
            yield from ((f"tables.{name}.rows[{i}]", row) for i, row in enumerate(table.rows))
        for name, figure in self.figures.items():
            yield from ((f"figures.{name}.{place}", row) for place, row in figure.rows())

    def certificate_names(self, row):
        """List ``model.codec.corpus.sampling`` of each result that the row may show: the stems of their
        records and certificates."""
        return [
            ".".join([model, codec, row.corpus, self.scheme_of(row)]) for model, codec in row.hypotheses()
        ]

    def without_head(self, row):
        """Copy a row whose codec has a smoothing head, with the codec that the head is based on."""
        return row.model_copy(update={"codec": [self.codecs[codec].base for codec in row.codec]})

    def candidates(self, certificate):
        """Count the results that a row picks from, this certificate's among them: they share the draws' part
        of delta."""
        counts = [
            len(names)
            for names in (self.certificate_names(row) for _, row in self.rows())
            if certificate in names
        ]
        return self.bounds.candidates * max(counts, default=1)

    def candidate_counts(self, rows):
        """Count the results that each row picks from."""
        return [len(row.hypotheses()) for row in rows]

    def implementations(self, model, codec=None):
        """List the classes, as strings, that predict with a model and, with a codec, decode its message: a
        change of their code makes results stale."""
        section = self.codecs[codec] if codec else None
        coded = self.codecs[section.base] if section and section.implementation is None else section
        return [self.models[model].implementation, *([coded.implementation] if coded else [])]

    def choices_bits(self):
        """Return the choices that the message does not hold, itemised, in bits: log2 of the number of
        alternatives (docs/theory.md, section 2).

        The sampling schemes define how much context the hypothesis sees, and the message lists these
        contexts; a certificate is about one of them. The α grid and the grids of the betting bound are terms
        of the bound functions themselves. The choice among the models and codecs of a row costs nothing: the
        message names its own.
        """
        contexts = {canonical_json(self.context(name)) for name in self.schemes}
        return {"sampling scheme": math.log2(len(contexts))}

    # ---------------------------------------------------------------- files

    @property
    def results(self):
        """Folder of the run."""
        return f"results/{self.run}"

    @property
    def parts(self):
        """Names of the parts in which draws are scored."""
        return [f"{part:05d}" for part in range(self.scoring.parts)]

    def certificates(self, rows):
        """List the certificates behind rows: for each row, all those from which it takes the best."""
        return [f"{self.results}/bounds/{name}.json" for row in rows for name in self.certificate_names(row)]

    def messages(self, rows):
        """List the messages of the hypotheses behind rows, each once."""
        pairs = dict.fromkeys(itertools.chain.from_iterable(row.hypotheses() for row in rows))
        return [f"{self.results}/messages/{model}.{codec}.bin" for model, codec in pairs]

    def model_configs(self, models):
        """List the configurations of models, each once: they state how training ended."""
        return [f"{self.results}/models/{model}/config.json" for model in dict.fromkeys(models)]

    def records(self, row):
        """List the records behind a row."""
        return [
            f"{self.results}/risk/{name}/{part}.parquet"
            for name in self.certificate_names(row)
            for part in self.parts
        ]

    def shown_certificates(self):
        """List all certificates behind tables and figures, each once."""
        rows = [row for table in self.tables.values() for row in table.rows]
        rows += [row for figure in self.figures.values() for row in figure.certified_rows(self)]
        return list(dict.fromkeys(self.certificates(rows)))
