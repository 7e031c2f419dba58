"""Checks of the inputs of every bound; an error is one line: the parameter, its value, the expectation."""

import math
import numbers

import numpy as np

from tokenbounds.errors import InputError

ROUNDING = 1e-9  # by which a float64 loss or log-probability may leave its interval
ENTROPY_ROUNDING_BITS = 1e-3  # often float32; they only place the centre, which is valid anywhere


def integer(name: str, value: float, minimum: float) -> int:
    """Return `value` as int, or raise an `InputError` unless it is a whole number >= `minimum`.

    A float such as 16.0 is a whole number; True is not.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value != int(value) or value < minimum:
        raise InputError(f"{name} is {value!r}; expected a whole number >= {minimum}")
    return int(value)


def real(name: str, value: float, minimum: float = -math.inf) -> float:
    """Return `value` as float, or raise an `InputError` unless it is finite and >= `minimum`."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < minimum:
        expected = f" >= {minimum}" if minimum > -math.inf else ""
        raise InputError(f"{name} is {value!r}; expected a finite number{expected}")
    return float(value)


def open_unit(name: str, value: float) -> float:
    """Return `value` as float, or raise an `InputError` unless it lies in the open interval (0, 1)."""
    if not 0 < real(name, value) < 1:
        raise InputError(f"{name} is {value!r}; expected a number strictly between 0 and 1")
    return float(value)


def smoothing(name: str, value: float) -> float:
    """Return `value` as float, or raise an `InputError` unless it is a smoothing weight in (0, 1]."""
    if not 0 < real(name, value) <= 1:
        raise InputError(f"{name} is {value!r}; expected a number in (0, 1]")
    return float(value)


def draws(name, values):
    """Return `values`, (n,) or (n, S), as a float64 array (n, S), with S = 1 for single tokens.

    NaN and other shapes raise an `InputError`.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        kind = type(values).__name__
        raise InputError(f"{name} holds {kind} that are not numbers; expected an array of numbers") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        expected = "(n,) draws or (n, S) windows, at least one"
        raise InputError(f"{name} has shape {np.shape(values)}; expected {expected}")
    bad = np.isnan(array)
    if bad.any():
        raise InputError(f"{name} is nan at draw {int(np.argmax(bad.any(axis=1)))}; expected numbers")
    return array


def inside(name, array, low, high, tolerance=ROUNDING):
    """Return `array` clipped to [low, high].

    A value further outside than `tolerance` (times the range, at least 1) raises an `InputError`.
    """
    allowed = tolerance * max(1.0, high - low) if math.isfinite(high - low) else tolerance
    bad = (array < low - allowed) | (array > high + allowed)
    if bad.any():
        row, value = int(np.argmax(bad.any(axis=1))), float(array[bad][0])
        raise InputError(f"{name} is {value!r} at draw {row}; expected a value in [{low}, {high}]")
    return np.clip(array, low, high)


def same_shape(name, array, like_name, like):
    """Raise an `InputError` unless `array` and `like`, both (n, S), have one shape."""
    if array.shape != like.shape:
        (n, size), (expected_n, expected_size) = array.shape, like.shape
        expected = f"{expected_n} of {expected_size} as in {like_name}"
        raise InputError(f"{name} holds {n} draws of {size}; expected {expected}")


def entropies(values, like_name, like, high):
    """Return entropies (n, S) in bits beside the losses `like`, clipped to [0, high]; None stays None."""
    if values is None:
        return None
    array = draws("entropies", values)
    same_shape("entropies", array, like_name, like)
    return inside("entropies", array, 0.0, high, ENTROPY_ROUNDING_BITS)


def population(m, n, draw_size):
    """Return `m` as int, or raise an `InputError`.

    It must hold n draws of `draw_size` tokens each and, for windows, a whole number of windows.
    """
    m = integer("m", m, 1)
    if m < n * draw_size:
        drawn = f"the {n * draw_size} tokens (or data points) drawn from it"
        raise InputError(f"m is {m}; expected at least {drawn}")
    if m % draw_size:
        raise InputError(f"m is {m}; expected a multiple of the window size {draw_size}: m = S floor(m / S)")
    return m
