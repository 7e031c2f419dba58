"""The lists from which a bound chooses after seeing the pilot: fixed beforehand, and paid for by their sizes."""

from dataclasses import dataclass, fields

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError


def logit_spaced(low, high, count):
    """`count` numbers from `low` to `high`, both in (0, 1), evenly spaced in log(p / (1 - p)); a tuple of floats."""
    logits = np.linspace(np.log(low / (1 - low)), np.log(high / (1 - high)), count)
    return tuple(float(p) for p in 1 / (1 + np.exp(-logits)))


@dataclass(frozen=True)
class Grids:
    """Values each free parameter of a bound may take (docs/theory.md, section 4).

    The log2 of the sizes that a method chooses from is part of its complexity, except for `b`, which only the pilot pays for.

    Attributes
    ----------
    alpha : tuple of float
        Smoothing weights in (0, 1].
    a : tuple of float
        Bet sizes in (0, 1); the multiplier is lambda = a / w.
    beta1, beta2 : tuple of float
        Coefficients (bits per bit, bits per bit squared) of the entropy and its square in the centre; finite.
    width : tuple of float
        w / D in (0, 1]: the reach of the bet below the upper end, relative to the loss interval D.
    b : tuple of float
        Bet sizes in (0, 1) for the mean over the draws.
    lambda_exponents : tuple of int or float
        j of the multipliers ``2^(j/2) sqrt(8 kappa) / Delta`` of the rigorous Azuma bound.

    Raises
    ------
    InputError
        If a grid is empty or a value lies outside its range.
    """

    alpha: tuple = (1e-4, 1e-3, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
    a: tuple = logit_spaced(1e-3, 0.9995, 64)
    beta1: tuple = (0.0, 0.25, 0.5, 0.75, 1.0)
    beta2: tuple = (0.0, 0.03, 0.06)
    width: tuple = (0.6, 0.8, 1.0)
    b: tuple = logit_spaced(0.01, 0.98, 32)
    lambda_exponents: tuple = (-4, -3, -2, -1, 0, 1, 2, 3, 4)

    def __post_init__(self):
        admissible = {"alpha": checks.smoothing, "width": checks.smoothing, "a": checks.open_unit, "b": checks.open_unit}
        for field in fields(self):
            values = tuple(getattr(self, field.name))
            if not values:
                raise InputError(f"grids.{field.name} is empty; expected at least one value")
            check = admissible.get(field.name, checks.real)
            object.__setattr__(self, field.name, tuple(check(f"grids.{field.name}", value) for value in values))
