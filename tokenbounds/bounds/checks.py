"""What every bound asks of its inputs; each failure is one line that names the parameter, the value and what was expected."""

import math
import numbers

import numpy as np

from tokenbounds.errors import InputError

ROUNDING = 1e-9  # how far a float64 loss or log-probability may lie outside its interval before it is an error
ENTROPY_ROUNDING_BITS = 1e-3  # entropies are often float32; they only place the centre, which is valid wherever it lies


def integer(name, value, minimum):
    """`value` as int; an `InputError` unless it is a whole number >= `minimum` (a float such as 16.0 is one, True is not)."""
    whole = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)
    if not whole or value < minimum:
        raise InputError(f"{name} is {value!r}; expected a whole number >= {minimum}")
    return int(value)


def real(name, value, minimum=-math.inf):
    """`value` as float; an `InputError` unless it is finite and >= `minimum`."""
    finite = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not finite or value < minimum:
        raise InputError(f"{name} is {value!r}; expected a finite number" + (f" >= {minimum}" if minimum > -math.inf else ""))
    return float(value)


def open_unit(name, value):
    """`value` as float; an `InputError` unless it lies in the open interval (0, 1)."""
    if not 0 < real(name, value) < 1:
        raise InputError(f"{name} is {value!r}; expected a number strictly between 0 and 1")
    return float(value)


def smoothing(name, value):
    """`value` as float; an `InputError` unless it is a smoothing weight in (0, 1]."""
    if not 0 < real(name, value) <= 1:
        raise InputError(f"{name} is {value!r}; expected a number in (0, 1]")
    return float(value)


def draws(name, values):
    """`values` (n,) or (n, S) as a float64 array (n, S), with S = 1 for single tokens; NaN or another shape is an `InputError`."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} holds {type(values).__name__} that are not numbers; expected an array of numbers") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} has shape {np.shape(values)}; expected (n,) draws or (n, S) windows, at least one")
    bad = np.isnan(array)
    if bad.any():
        raise InputError(f"{name} is nan at draw {int(np.argmax(bad.any(axis=1)))}; expected numbers")
    return array


def inside(name, array, low, high, tolerance=ROUNDING):
    """`array` clipped to [low, high]; a value further outside than `tolerance` (times the range, at least 1) is an `InputError`."""
    allowed = tolerance * max(1.0, high - low) if math.isfinite(high - low) else tolerance
    bad = (array < low - allowed) | (array > high + allowed)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise InputError(f"{name} is {float(array[bad][0])!r} at draw {row}; expected a value in [{low}, {high}]")
    return np.clip(array, low, high)


def same_shape(name, array, like_name, like):
    """An `InputError` unless `array` and `like`, both (n, S), have one shape."""
    if array.shape != like.shape:
        raise InputError(
            f"{name} holds {array.shape[0]} draws of {array.shape[1]}; expected {like.shape[0]} of {like.shape[1]} as in {like_name}"
        )


def entropies(values, like_name, like, high):
    """Entropies (n, S) in bits beside the records `like`, clipped to [0, high]; None stays None."""
    if values is None:
        return None
    array = draws("entropies", values)
    same_shape("entropies", array, like_name, like)
    return inside("entropies", array, 0.0, high, ENTROPY_ROUNDING_BITS)


def population(m, n, draw_size):
    """`m` as int; an `InputError` unless it holds n draws of `draw_size` tokens each and, for windows, a whole number of windows."""
    m = integer("m", m, 1)
    if m < n * draw_size:
        raise InputError(f"m is {m}; expected at least the {n * draw_size} tokens (or data points) drawn from it")
    if m % draw_size:
        raise InputError(f"m is {m}; expected a multiple of the window size {draw_size}: m = S floor(m / S)")
    return m
