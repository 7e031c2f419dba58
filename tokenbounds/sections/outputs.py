"""Bounds, tables and figures."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from tokenbounds.sections.base import Alpha, Grid, Name, Probability, Section, as_list


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


Names = Annotated[list[Name], BeforeValidator(as_list), Field(min_length=1)]


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
