"""Bounds: top-k errors, and the grids of their free parameters."""

from typing import Annotated

from pydantic import Field, PositiveInt

from tokenbounds.config.schema.base import Alpha, Grid, Probability, Section

Numbers = Annotated[list[float], Field(min_length=1), Grid]
Alphas = Annotated[list[Alpha], Field(min_length=1), Grid]


class Spaced(Section):
    """Numbers in (0, 1), evenly spaced in log(p / (1 - p))."""

    low: Probability = Field(description="Least number.")
    high: Probability = Field(description="Greatest number.")
    count: PositiveInt = Field(description="Number of values.")


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
    lambda_exponents: Numbers = Field(
        [-4, -3, -2, -1, 0, 1, 2, 3, 4],
        description="j of the multipliers 2^(j/2) sqrt(8 kappa) / Delta of the rigorous Azuma bound.",
    )
    sampling_bet_sizes: Spaced = Field(
        Spaced(low=0.01, high=0.98, count=32),
        description="Bet sizes for the mean over the draws (b in docs/theory.md), chosen on the pilot.",
    )
    candidates: PositiveInt = Field(
        1,
        description="Number of results selected from after sampling (rows, redraws); divides delta2.",
    )
