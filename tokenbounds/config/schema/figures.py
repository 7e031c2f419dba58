"""Figures: their keys, the files they are made from, and their checks against the whole configuration."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.config.schema.base import Grid, Name, Section, known, slice_of
from tokenbounds.config.schema.reports import Names, Row


class RowSeries(Section):
    """A line of a figure about bounds."""

    label: str = Field(description="Name in the legend.")
    rows: list[Row] = Field(min_length=1, description="Points.")


class ModelSeries(Section):
    """A line of a figure about training."""

    label: str = Field(description="Name in the legend.")
    models: Names = Field(description="Points: keys of `models`; the name of a sweep stands for its members.")


class FigureSection(Section):
    """Base of all figures.

    Attributes
    ----------
    implementation : str
        The function that draws it, as ``"package.module:function"``: it takes inputs, spec and outputs.
    made_by : str
        Rule that draws it.
    """

    implementation: ClassVar[str]
    made_by: ClassVar[str] = "figure"

    def rows(self):
        """List (place, row) of every row: none."""
        return []

    def models(self):
        """List (place, model) of every model whose training it shows: none."""
        return []

    def certified_rows(self, run):
        """List the rows whose certificates it shows."""
        return [row for _, row in self.rows()]

    def hypotheses(self):
        """List (model, codec) of each hypothesis that is run for it, besides those of its rows: none."""
        return []

    def tables(self, name):
        """Return further tables that come with the figure of this name: a dict of name to table."""
        return {}

    def inputs(self, run, name):
        """Return the files that the figure of this name is made from, by name; `run` is a
        `tokenbounds.config.run.Config`."""
        raise NotImplementedError

    def spec(self, run):
        """Return everything else that determines its content, as JSON data."""
        raise NotImplementedError

    def check(self, run, place):
        """Refuse, with a ValueError that names `place`, keys that do not fit the rest of the configuration:
        none."""


class SizeFigure(FigureSection):
    """Bound and training loss against compressed size (the paper's Figure 1, left and middle)."""

    implementation: ClassVar[str] = "tokenbounds.reports.figures.size:draw"

    kind: Literal["size"] = Field(description="Bound and training loss against compressed size.")
    series: list[RowSeries] = Field(min_length=1, description="Lines of the figure.")

    def rows(self):
        """List (place, row) of every row."""
        return [
            (f"series[{i}].rows[{j}]", row)
            for i, series in enumerate(self.series)
            for j, row in enumerate(series.rows)
        ]

    def inputs(self, run, name):
        """Return the certificates of its rows."""
        return {"certificates": run.certificates(row for _, row in self.rows())}

    def spec(self, run):
        """Return (legend label, own label) of each row, and the number of results each picks from."""
        labels = [(series.label, row.label) for series in self.series for row in series.rows]
        return {"labels": labels, "counts": run.candidate_counts(row for _, row in self.rows())}


class ModelsFigure(FigureSection):
    """A figure about models, without a bound."""

    series: list[ModelSeries] = Field(min_length=1, description="Lines of the figure.")

    def models(self):
        """List (place, model) of every model that it is about."""
        return [
            (f"series[{i}].models", model) for i, series in enumerate(self.series) for model in series.models
        ]

    def check(self, run, place):
        """Refuse models that are not trained here."""
        check_trained(self, run, place)


class ParametersFigure(ModelsFigure):
    """Validation loss against trainable parameters (the paper's Figure 1, right)."""

    implementation: ClassVar[str] = "tokenbounds.reports.figures.parameters:draw"

    kind: Literal["parameters"] = Field(description="Validation loss against trainable parameters.")

    def inputs(self, run, name):
        """Return the configurations of the models, which state how training ended."""
        return {"models": [f"{run.results}/models/{model}/config.json" for _, model in self.models()]}

    def spec(self, run):
        """Return (legend label, model) of each model."""
        return {"labels": [(series.label, model) for series in self.series for model in series.models]}


class SmoothingFigure(FigureSection):
    """Bounds with a smoothing head against constant smoothing (the paper's Figure 3)."""

    implementation: ClassVar[str] = "tokenbounds.reports.figures.smoothing:draw"
    made_by: ClassVar[str] = "smoothing_figure"

    kind: Literal["smoothing"] = Field(description="Bounds with a smoothing head against global smoothing.")
    heads: list[Row] = Field(
        min_length=1, description="Rows whose codec is a smoothing head; the first is shown in detail."
    )

    def rows(self):
        """List (place, row) of every row."""
        return [(f"heads[{i}]", row) for i, row in enumerate(self.heads)]

    def models(self):
        """List (place, model) of every model whose training it shows."""
        return [(f"heads[{i}].model", model) for i, row in enumerate(self.heads) for model in row.model]

    def certified_rows(self, run):
        """List its rows, and the same with the codecs that the heads are based on."""
        return [*self.heads, *map(run.without_head, self.heads)]

    def inputs(self, run, name):
        """Return the certificates with the heads and without them, and the configurations of the models."""
        return {
            "heads": run.certificates(self.heads),
            "bases": run.certificates(map(run.without_head, self.heads)),
            "models": [f"{run.results}/models/{model}/config.json" for _, model in self.models()],
        }

    def spec(self, run):
        """Return the label of each head, and the bound that it was trained on."""
        methods = [run.codecs[codec].objective for row in self.heads for codec in row.codec]
        return {"labels": [row.label for row in self.heads], "methods": methods}

    def check(self, run, place):
        """Refuse codecs without a head, schemes that do not draw single tokens, models not trained here."""
        for i, row in enumerate(self.heads):
            if any(run.codecs[codec].made_by != "alpha_head" for codec in row.codec):
                raise ValueError(
                    f"{place}.heads[{i}].codec: {', '.join(row.codec)}; expected codecs of kind alpha_head"
                )
            if (mode := run.schemes[run.scheme_of(row)].mode) != "token":
                raise ValueError(
                    f"{place}.heads[{i}].sampling: a scheme of mode {mode}; expected single tokens"
                )
        check_trained(self, run, place)

    @model_validator(mode="after")
    def _check(self):
        for row in self.heads:
            if len(row.model) * len(row.codec) != 1:
                raise ValueError(f"heads '{row.label}': {count(row)}; expected one of each")
        return self


def check_trained(figure, run, place):
    """Refuse models of a figure that have no training curve."""
    for key, model in figure.models():
        if not run.models[model].trained:
            raise ValueError(
                f"{place}.{key}: '{model}' is not trained here; expected models with a training curve"
            )


def count(row):
    """Describe the number of models and codecs of a row, for errors."""
    return f"{len(row.model)} models and {len(row.codec)} codecs"


class MemorizationFigure(ModelsFigure):
    """Training sequences that quantized models still know by heart (the paper's Figure 4)."""

    implementation: ClassVar[str] = "tokenbounds.reports.figures.memorization:draw"

    kind: Literal["memorization"] = Field(
        description="Accuracy on training sequences against quantization levels."
    )
    series: list[ModelSeries] = Field(
        min_length=1, description="Lines: each the mean over its models, which are replicates."
    )
    levels: Annotated[list[Annotated[int, Field(ge=2, le=65536)]], Field(min_length=1), Grid] = Field(
        description="Numbers of quantization levels."
    )
    method: Literal["uniform", "kmeans"] = Field("uniform", description="Uniform bins or k-means.")

    def inputs(self, run, name):
        """Return the accuracies of each model, which rule `memorization` measures."""
        return {
            "accuracies": [f"{run.results}/memorization/{name}.{model}.csv" for _, model in self.models()]
        }

    def spec(self, run):
        """Return the legend label of each model."""
        return {"labels": [series.label for series in self.series for _ in series.models]}

    def check(self, run, place):
        """Refuse models that are not trained here on integer sequences."""
        for key, model in self.models():
            if not run.corpora[run.models[model].corpus].source.sequences:
                reason = f"models.{model} is trained on corpora.{run.models[model].corpus}"
                raise ValueError(f"{place}.{key}: {reason}; expected a corpus of source.sequences")
        check_trained(self, run, place)


class Evaluated(Section):
    """A model whose predictions of resampled tokens are compared with its downstream performance."""

    label: str = Field(description="Name in figure and table.")
    model: Name = Field(description="A key of `models`.")
    codec: Name = Field(description="A key of `codecs`.")


class Downstream(Section):
    """A downstream result of each evaluated model: measured on a `corpus`, or `published`."""

    label: str = Field(description="Name of the dataset.")
    metric: Literal["perplexity", "accuracy"] = Field(description="Perplexity, or accuracy in percent.")
    corpus: Name | None = Field(
        None,
        description="A key of `corpora`, on whose tokens the result is measured (next-token prediction).",
    )
    published: dict[Name, PositiveFloat] | None = Field(
        None, description="Published values, by evaluated model."
    )

    @model_validator(mode="after")
    def _check(self):
        self._exactly_one("corpus", "published")
        return self


class DownstreamFigure(FigureSection):
    """The bounded quantity, and its correlation with downstream performance (the paper's Figure 2 and Table
    7)."""

    implementation: ClassVar[str] = "tokenbounds.reports.figures.downstream:draw"

    kind: Literal["downstream"] = Field(
        description="Entropy of next tokens, and prediction of resampled ones against downstream performance."
    )
    entropy: Row = Field(description="The model whose entropy is shown; one model and one codec.")
    generator: Row = Field(
        description="The model from which next tokens are drawn, in the contexts of its corpus; one model "
        "and one codec."
    )
    evaluated: list[Evaluated] = Field(
        min_length=3, description="The models that predict them; a correlation needs three."
    )
    downstream: list[Downstream] = Field(
        min_length=1, description="Downstream results of the evaluated models."
    )
    source: str | None = Field(None, description="Reference of the published results; required with them.")
    draws: int = Field(10000, ge=2, description="Number of contexts: the first draws of each corpus.")
    tokens: PositiveInt = Field(1, description="Tokens drawn per context.")
    table: Name = Field(description="Name of the table that shows the same numbers.")
    caption: str = Field("", description="Caption of the table.")

    def rows(self):
        """List (place, row) of every row."""
        return [("entropy", self.entropy), ("generator", self.generator)]

    def certified_rows(self, run):
        """List no rows: it is made from draws and records."""
        return []

    def hypotheses(self):
        """List (model, codec) of each evaluated model."""
        return [(item.model, item.codec) for item in self.evaluated]

    def tables(self, name):
        """Return the table with the same numbers."""
        return {self.table: DownstreamTable(self, name)}

    @property
    def corpora(self):
        """The corpora that downstream performance is measured on."""
        return list(dict.fromkeys(item.corpus for item in self.downstream if item.corpus))

    def inputs(self, run, name):
        """Return the records whose entropy is shown, and the scores of the evaluated models."""
        return {
            "records": run.records(self.entropy),
            "scores": [f"{run.results}/resampled/{name}.scores.json"],
        }

    def spec(self, run):
        """Return labels, downstream results, and a description of the records of the entropy."""
        (codec,) = self.entropy.codec
        return {
            "labels": [item.label for item in self.evaluated],
            "downstream": [slice_of(item) for item in self.downstream],
            "names": [self.entropy.label, self.generator.label],
            "head": run.codecs[codec].made_by == "alpha_head",
            "longest": run.schemes[run.scheme_of(self.entropy)].context_length,
        }

    def check(self, run, place):
        """Refuse names that are not defined, schemes that do not draw single tokens (or windows, for the
        entropy), and more draws or tokens than a scheme has."""
        for i, item in enumerate(self.evaluated):
            known(f"{place}.evaluated[{i}].model", item.model, run.models)
            known(f"{place}.evaluated[{i}].codec", item.codec, run.codecs)
            run.check_message(f"{place}.evaluated[{i}]", item.model, item.codec)
        for i, result in enumerate(self.downstream):
            if result.corpus is not None:
                known(f"{place}.downstream[{i}].corpus", result.corpus, run.corpora)
        for key, row in self.rows():
            mode = run.schemes[run.scheme_of(row)].mode
            if mode == "document" or (key == "generator" and mode != "token"):
                expected = "single tokens" if key == "generator" else "single tokens or windows"
                raise ValueError(f"{place}.{key}.sampling: a scheme of mode {mode}; expected {expected}")
        scheme = run.schemes[run.scheme_of(self.generator)]
        for key, other in (("draws", "n"), ("tokens", "context_length")):
            value, limit = getattr(self, key), getattr(scheme, other)
            if value > limit:
                expected = f"at most the {other} of its sampling scheme, {limit}"
                raise ValueError(f"{place}.{key}: {value}; expected {expected}")

    @model_validator(mode="after")
    def _check(self):
        for key, row in self.rows():
            if len(row.model) * len(row.codec) != 1:
                raise ValueError(f"{key} '{row.label}': {count(row)}; expected one of each")
        models = [item.model for item in self.evaluated]
        published = [(item.label, item.published) for item in self.downstream if item.published]
        for label, values in published:
            if set(values) != set(models):
                given, expected = ", ".join(values), ", ".join(dict.fromkeys(models))
                raise ValueError(f"downstream '{label}': values of {given}; expected those of {expected}")
        if bool(published) != bool(self.source):
            raise ValueError(
                "`source` (where the numbers are from) goes with published results, "
                "and published results need it"
            )
        columns = [(item.label, item.metric) for item in self.downstream]
        if len(set(columns)) != len(columns):
            raise ValueError("downstream: a label and metric occur twice; expected different ones")
        labels = [item.label for item in self.evaluated]
        if len(set(labels)) != len(labels):
            raise ValueError("evaluated: a label occurs twice; expected different ones")
        return self


@dataclasses.dataclass(frozen=True)
class DownstreamTable:
    """The table of a `DownstreamFigure`, with the interface of `Table`."""

    figure: DownstreamFigure
    name: str
    samples = None
    implementation = "tokenbounds.reports.downstream_table:draw"

    def inputs(self, run):
        """Return the scores of the evaluated models."""
        return {"scores": [f"{run.results}/resampled/{self.name}.scores.json"]}

    def spec(self, run):
        """Return labels, downstream results, and the contents of the note below the table."""
        return {
            "labels": [item.label for item in self.figure.evaluated],
            "downstream": [slice_of(item) for item in self.figure.downstream],
            "caption": self.figure.caption,
            "note": {
                "generator": self.figure.generator.label,
                "corpus": self.figure.generator.corpus,
                "draws": self.figure.draws,
                "source": self.figure.source,
            },
        }

    def hypotheses(self):
        """List no hypothesis: none is run for it."""
        return []


# Every figure, by kind. A new one is a module with a function, a section above, and its name here.
FIGURES = (SizeFigure, ParametersFigure, SmoothingFigure, MemorizationFigure, DownstreamFigure)
if TYPE_CHECKING:
    Figure = FigureSection
else:
    Figure = Annotated[Union[FIGURES], Field(discriminator="kind")]  # noqa: UP007
