"""Lists of values that a bound chooses from on the pilot: fixed beforehand, their sizes a complexity term."""

from dataclasses import dataclass, fields

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError


def logit_spaced(low, high, count):
    """Return `count` numbers from `low` to `high`, both in (0, 1), evenly spaced in log(p / (1 - p)).

    Returns
    -------
    tuple of float

    Examples
    --------
    >>> [round(p, 3) for p in logit_spaced(0.01, 0.99, 5)]
    [0.01, 0.091, 0.5, 0.909, 0.99]
    """
    logits = np.linspace(np.log(low / (1 - low)), np.log(high / (1 - high)), count)
    return tuple(float(p) for p in 1 / (1 + np.exp(-logits)))


EXPONENT_LIMIT = 400  # lambda from 2^-100 to 2^100: far beyond every use, and far from overflow


def _exponent(name, value):
    if abs(checks.real(name, value)) > EXPONENT_LIMIT:
        raise InputError(f"{name} is {value!r}; expected a number from {-EXPONENT_LIMIT} to {EXPONENT_LIMIT}")
    return float(value)


@dataclass(frozen=True)
class Grids:
    """Values that each free parameter of a bound may take (docs/theory.md, section 4).

    The log2 of the sizes that a method chooses from is part of its complexity, except for
    `sampling_bet_sizes`: that choice is made on the pilot alone.

    Attributes
    ----------
    alpha : tuple of float
        Smoothing weights in (0, 1].
    bet_sizes : tuple of float
        a in (0, 1); the multiplier is lambda = a / w.
    centre_linear, centre_quadratic : tuple of float
        Coefficients beta1, beta2 (bits per bit, bits per bit squared) of the entropy and its square in the
        centre; finite.
    centre_widths : tuple of float
        w / D in (0, 1]: reach of the bet below the upper end, relative to the loss interval D.
    sampling_bet_sizes : tuple of float
        b in (0, 1), for the mean over the draws.
    freedman_fractions : tuple of float
        s in (0, 1); the multiplier of the Freedman bound is lambda = s / D.
    lambda_exponents : tuple of int or float
        j of the multipliers ``lambda = 2^(j/4)``, per unit of loss, of the certified Azuma bounds. They
        depend on neither m nor kappa (docs/theory.md, section 11).

    Raises
    ------
    InputError
        A grid is empty, or a value lies outside its range.

    Examples
    --------
    >>> grids = Grids(alpha=(0.01, 0.1))
    >>> grids.alpha, len(grids.bet_sizes)
    ((0.01, 0.1), 64)
    """

    alpha: tuple[float, ...] = (1e-4, 1e-3, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
    bet_sizes: tuple[float, ...] = logit_spaced(1e-3, 0.9995, 64)
    centre_linear: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    centre_quadratic: tuple[float, ...] = (0.0, 0.03, 0.06)
    centre_widths: tuple[float, ...] = (0.6, 0.8, 1.0)
    sampling_bet_sizes: tuple[float, ...] = logit_spaced(0.01, 0.98, 32)
    freedman_fractions: tuple[float, ...] = logit_spaced(1e-3, 0.9995, 64)
    lambda_exponents: tuple[float, ...] = tuple(range(-96, 32))  # lambda from 6e-8 to 215

    def __post_init__(self):
        ranges = {
            "alpha": checks.smoothing,
            "bet_sizes": checks.open_unit,
            "centre_widths": checks.smoothing,
            "sampling_bet_sizes": checks.open_unit,
            "freedman_fractions": checks.open_unit,
            "lambda_exponents": _exponent,
        }
        for field in fields(self):
            values = tuple(getattr(self, field.name))
            if not values:
                raise InputError(f"grids.{field.name} is empty; expected at least one value")
            check = ranges.get(field.name, checks.real)
            checked = tuple(check(f"grids.{field.name}", value) for value in values)
            object.__setattr__(self, field.name, checked)

    def sizes(self, *names):
        """Return the number of values of the grids `names`, by name."""
        return {name: len(getattr(self, name)) for name in names}


def grids_of(settings):
    """Build the grids that a `bounds` section of the configuration describes, its defaults filled in.

    A grid is a list, or ``{low, high, count}`` for numbers spaced as by `logit_spaced`, or ``{low, high}``
    for the whole numbers from low to high.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> settings = asdict(Grids()) | {"bet_sizes": {"low": 0.01, "high": 0.99, "count": 3}}
    >>> settings["lambda_exponents"] = {"low": -2, "high": 2}
    >>> grids = grids_of(settings)
    >>> [round(a, 3) for a in grids.bet_sizes], grids.lambda_exponents
    ([0.01, 0.5, 0.99], (-2.0, -1.0, 0.0, 1.0, 2.0))
    """

    def values(setting):
        if not isinstance(setting, dict):
            return tuple(setting)
        if "count" in setting:
            return logit_spaced(**setting)
        return tuple(range(setting["low"], setting["high"] + 1))

    return Grids(**{field.name: values(settings[field.name]) for field in fields(Grids)})
