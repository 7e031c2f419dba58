"""Rows and tables."""

import itertools
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from tokenbounds.config.schema.base import Name, Section, as_list, known, slice_of

Names = Annotated[list[Name], BeforeValidator(as_list), Field(min_length=1)]


class Row(Section):
    """One line of a table: a model, coded, on a corpus; of several models or codecs, the one with the least
    bound."""

    label: str = Field(description="Name in the table.")
    model: Names = Field(
        description="A key of `models`, or several to take the best of; the name of a sweep stands for its "
        "members."
    )
    codec: Names = Field(description="A key of `codecs`, or several, likewise.")
    corpus: Name = Field(description="A key of `corpora`: the corpus whose tokens the bound is about.")
    sampling: Name | None = Field(
        None, description="A key of `samplings`; default: the scheme under `sampling`."
    )

    def hypotheses(self):
        """List (model, codec) of each hypothesis that it may show."""
        return list(itertools.product(self.model, self.codec))


class Samples(Section):
    """Text that the models of a table's rows generate."""

    prompts: list[str] = Field(
        [""], min_length=1, description="Beginnings of the texts; an empty one: from the start token."
    )
    tokens: PositiveInt = Field(
        100, description="Most tokens to generate; a text ends earlier if the model ends the document."
    )
    temperature: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Divisor of the logits; 0: always the most probable token.",
    )
    top_k: PositiveInt | None = Field(
        None, description="Number k of most probable tokens to choose from; default all."
    )
    count: PositiveInt = Field(1, description="Texts per prompt and row.")


class Table(Section):
    """A table of the paper."""

    caption: str = Field("", description="Caption.")
    rows: list[Row] = Field(min_length=1, description="Rows in order; the random guess is added below.")
    top_k: list[PositiveInt] = Field([1, 10, 100], description="The k of the top-k errors that get a column.")
    methods: list[str] = Field(
        [],
        description="Bounds that are shown besides those that bound every metric, by name: azuma_rigorous, "
        "freedman, or one of another package that bounds bits per token.",
    )
    samples: Samples | None = Field(
        None, description="Text that the models of the rows generate, shown below their bounds."
    )
    validation_loss: bool = Field(
        False, description="Column with the validation loss at the end of training, before quantization."
    )

    @model_validator(mode="after")
    def _check_columns(self):
        if self.samples is not None and self.validation_loss:
            raise ValueError("`validation_loss` is a column of tables without `samples`")
        return self

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods):
        from tokenbounds.bounds import Bpd  # here, as every job reads this schema
        from tokenbounds.bounds.methods import METHODS  # and this loads other packages' methods

        for name in methods:
            known("methods", name, [key for key, method in METHODS.items() if Bpd in method.can_bound])
        return methods

    @property
    def implementation(self):
        """The function that writes it, as ``"package.module:function"``: it takes inputs, spec and
        outputs."""
        return "tokenbounds.reports.text_tables:draw" if self.samples else "tokenbounds.reports.tables:draw"

    def inputs(self, run):
        """Return the files that it is made from, by name; `run` is a `tokenbounds.config.run.Config`."""
        files = {"certificates": run.certificates(self.rows)}
        if self.samples:
            corpora = dict.fromkeys(row.corpus for row in self.rows)
            return files | {
                "messages": run.messages(self.rows),
                "tokenizers": [f"{run.results}/tokens/{corpus}/tokenizer" for corpus in corpora],
            }
        models = [model for row in self.rows for model in row.model] if self.validation_loss else []
        return files | {"models": run.model_configs(models)}

    def spec(self, run):
        """Return everything else that determines its content, as JSON data."""
        return {
            "caption": self.caption,
            "labels": [row.label for row in self.rows],
            "counts": run.candidate_counts(self.rows),
            "top_k": self.top_k,
            "methods": self.methods,
            **({"samples": slice_of(self.samples), "seed": run.seed} if self.samples else {}),
        }

    def hypotheses(self):
        """List (model, codec) of each hypothesis that it runs."""
        return [pair for row in self.rows for pair in row.hypotheses()] if self.samples else []
