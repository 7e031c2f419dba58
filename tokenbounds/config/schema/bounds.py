"""Bounds: top-k errors, and the grids of their free parameters."""

import math
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from tokenbounds.config.schema.base import Alpha, Grid, Probability, Section

EXPONENT_LIMIT = 400  # that of tokenbounds.bounds.grids, which every job would else import

Numbers = Annotated[list[float], Field(min_length=1, max_length=256), Grid]
Alphas = Annotated[list[Alpha], Field(min_length=1, max_length=256), Grid]


class Spaced(Section):
    """Numbers in (0, 1), evenly spaced in log(p / (1 - p))."""

    low: Probability = Field(description="Least number.")
    high: Probability = Field(description="Greatest number.")
    count: int = Field(gt=0, le=256, description="Number of values, at most 256.")


class Exponents(Section):
    """Whole numbers from `low` to `high`."""

    low: int = Field(ge=-EXPONENT_LIMIT, le=EXPONENT_LIMIT, description="Least number.")
    high: int = Field(ge=-EXPONENT_LIMIT, le=EXPONENT_LIMIT, description="Greatest number.")

    @model_validator(mode="after")
    def _check_order(self):
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; expected low <= high")
        return self


LARGEST_GRID = 2**20  # points that one search holds; the default has 23,040


class Bounds(Section):
    """Bounds and their grids; log2 of each grid's size is a complexity term (docs/theory.md, section 2)."""

    alpha: Alphas = Field(
        [1e-4, 1e-3, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5],
        description="Smoothing probabilities.",
    )
    top_k: Annotated[list[PositiveInt], Grid] = Field(
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 100],
        description="The k of each top-k error.",
    )
    bet_sizes: Spaced = Field(
        Spaced(low=1e-3, high=0.9995, count=64),
        description="Bet sizes of the betting bound (a in docs/theory.md).",
    )
    centre_linear: Numbers = Field(
        [0.0, 0.25, 0.5, 0.75, 1.0],
        description="Coefficients of the entropy in the betting bound's centre.",
    )
    centre_quadratic: Numbers = Field(
        [0.0, 0.03, 0.06],
        description="Coefficients of the squared entropy in the betting bound's centre.",
    )
    centre_widths: Alphas = Field(
        [0.6, 0.8, 1.0],
        description="Reach of the bets below the largest loss, relative to the loss interval.",
    )
    freedman_fractions: Spaced = Field(
        Spaced(low=1e-3, high=0.9995, count=64),
        description="Multipliers of the Freedman bound times the loss interval (s in docs/theory.md).",
    )
    lambda_exponents: Exponents = Field(
        Exponents(low=-96, high=31),
        description="j of the multipliers 2^(j/4), per unit of loss, of the certified Azuma bounds; to be "
        "fixed without regard to the number of tokens.",
    )
    sampling_bet_sizes: Spaced = Field(
        Spaced(low=0.01, high=0.98, count=32),
        description="Bet sizes for the mean over the draws (b in docs/theory.md), chosen on the pilot.",
    )
    candidates: PositiveInt = Field(
        1,
        description="Number of results selected from after sampling (rows, redraws); divides delta2.",
    )
    attempt: PositiveInt | None = Field(
        None,
        description="Number k of this attempt where their number was not fixed beforehand: divides delta2 by "
        "k (k + 1), besides `candidates`. Count every certificate that was computed.",
    )

    @model_validator(mode="after")
    def _check_sizes(self):
        grids = self.alpha, self.centre_linear, self.centre_quadratic, self.centre_widths
        size = math.prod(map(len, grids)) * self.bet_sizes.count
        if size > LARGEST_GRID:
            expected = f"expected at most {LARGEST_GRID}"
            raise ValueError(f"the grids of the betting bound have {size} points; {expected}")
        return self
