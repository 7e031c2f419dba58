"""Scalar quantization of parameter vectors: uniform bins or k-means levels, float16 codebooks.

Both quantizers return ``(symbols, codebook)``; the dequantized vector is
``codebook[symbols].astype(np.float32)``. Every codeword is used by at least one value and no two are equal:
a message holds no useless codeword.
"""

import heapq

import numpy as np

from tokenbounds.errors import InputError

MAX_LEVELS = 65536
FLOAT16_MAX = float(np.finfo(np.float16).max)
_MARGIN = 1e-6  # the outermost values lie inside the outermost bins, and an all-zero vector has a grid
_CHUNK = 1 << 22  # values per step, to keep the temporaries of a large vector small
_START_POINTS = 1 << 16  # order statistics from which k-means takes its starts


def check_values(values, name="vector"):
    """Flatten `values` to float32 after checking that they can be quantized.

    Parameters
    ----------
    values : array_like of numbers, any shape
    name : str
        Name of the values in errors.

    Returns
    -------
    ndarray of float32, shape (size,)
        A view where `values` is a contiguous float32 array.

    Raises
    ------
    InputError
        No values, not real numbers, a NaN, an infinity, or a magnitude beyond the largest finite float16
        (65504).
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} has the type {values.dtype}; expected real numbers")
    if values.size == 0:
        raise InputError(f"{name} is empty; expected at least one value")
    low, high = float(values.min()), float(values.max())
    if np.isnan(low):
        raise InputError(f"{name} holds a NaN")
    extreme = max(low, high, key=abs)
    if np.isinf(extreme):
        raise InputError(f"{name} holds an infinity")
    if abs(extreme) > FLOAT16_MAX:
        expected = f"magnitudes within the float16 range of the codebook, {FLOAT16_MAX:g}"
        raise InputError(f"{name} holds {extreme:g}; expected {expected}")
    return np.ravel(values).astype(np.float32, copy=False)


def check_levels(levels):
    """Raise an `InputError` unless `levels` is an integer from 2 to 65536."""
    if isinstance(levels, bool) or not isinstance(levels, int | np.integer) or not 2 <= levels <= MAX_LEVELS:
        raise InputError(f"levels is {levels!r}; expected an integer from 2 to {MAX_LEVELS}")


def uniform_levels(vector, levels):
    """Quantize to the means of `levels` equal bins over ``[-max|w| - 1e-6, max|w| + 1e-6]``.

    The quantizer of Lotfi et al., with one difference: an empty bin, and the second of two bins whose means
    round to the same float16, get no codeword. The dequantized vector is the same. Bin means are computed in
    float64 and rounded to float16 once; magnitudes up to 2^-25 become zero.

    Parameters
    ----------
    vector : array_like of numbers, any shape
        Read in C order.
    levels : int
        Number of bins, 2 to 65536.

    Returns
    -------
    symbols : ndarray of uint8 (at most 256 codewords) or uint16, shape (size,)
    codebook : ndarray of float16, ascending and distinct, shape (K,), K <= levels

    Raises
    ------
    InputError
        See `check_values` and `check_levels`.

    Examples
    --------
    >>> symbols, codebook = uniform_levels([-1.0, 0.25, 1.0, 0.75], 3)
    >>> symbols.tolist(), codebook.tolist()
    ([0, 1, 2, 2], [-1.0, 0.25, 0.875])
    """
    check_levels(levels)
    vector = check_values(vector)
    bins, counts, sums = _uniform_bins(vector, levels)
    occupied = np.flatnonzero(counts)
    codebook, codeword_of = _distinct_float16(sums[occupied] / counts[occupied], return_inverse=True)
    renumber = np.zeros(levels, _symbol_type(codebook))
    renumber[occupied] = codeword_of
    return renumber[bins], codebook


def kmeans_levels(vector, levels, *, iterations=100):
    """Quantize to at most `levels` one-dimensional k-means centres.

    Exact Lloyd iterations on the sorted vector (cluster sums are differences of prefix sums), from three
    starts: the occupied uniform bins; the quantiles of the cube root of the density, optimal for many levels
    and a smooth density (Panter and Dite 1951); and bisection of the cluster with the largest error, which
    finds separate clusters. The best of these and of the uniform codebook is kept, so the mean squared error
    is never above that of `uniform_levels`. A vector of at most `levels` distinct values keeps them (as
    float16). Deterministic.

    The entropy of the symbols is usually *higher* than with uniform bins of the same number: k-means fills
    the levels evenly.

    Parameters
    ----------
    vector : array_like of numbers, any shape
        Read in C order.
    levels : int
        Largest number of centres, 2 to 65536.
    iterations : int
        Lloyd iterations per start, at most; they end earlier when nothing moves.

    Returns
    -------
    symbols, codebook
        As `uniform_levels` returns them; every value is coded by its nearest codeword.

    Raises
    ------
    InputError
        See `check_values` and `check_levels`.
    """
    check_levels(levels)
    vector = check_values(vector)
    ordered = np.sort(vector)
    prefix_sums = np.zeros(ordered.size + 1)
    for start in range(0, ordered.size, _CHUNK):
        stop = start + _CHUNK
        prefix_sums[start + 1 : stop + 1] = prefix_sums[start] + np.cumsum(
            ordered[start:stop], dtype=np.float64
        )

    if 1 + np.count_nonzero(ordered[1:] != ordered[:-1]) <= levels:
        codebooks = [_distinct_float16(ordered)]
    else:
        _, counts, sums = _uniform_bins(vector, levels)
        means = sums[counts > 0] / counts[counts > 0]
        points = ordered[
            np.linspace(0, ordered.size - 1, min(ordered.size, _START_POINTS)).astype(np.int64)
        ].astype(np.float64)
        starts = [means, _companding_start(points, levels), _bisection_start(points, levels)]
        centres = [means, *(_lloyd(ordered, prefix_sums, start, iterations) for start in starts)]
        codebooks = [_distinct_float16(c) for c in centres]

    def squared_error(codebook):  # up to the constant sum of squares
        bounds, codewords = _boundaries(ordered, codebook), codebook.astype(np.float64)
        return np.sum(codewords * (np.diff(bounds) * codewords - 2 * np.diff(prefix_sums[bounds])))

    codebook = min(codebooks, key=squared_error)
    # rounding to float16 can empty a cluster
    codebook = codebook[np.diff(_boundaries(ordered, codebook)) > 0]
    symbols = np.empty(vector.size, _symbol_type(codebook))
    midpoints = _midpoints(codebook)
    for start in range(0, vector.size, _CHUNK):
        symbols[start : start + _CHUNK] = np.searchsorted(midpoints, vector[start : start + _CHUNK])
    return symbols, codebook


def _uniform_bins(vector, levels):
    """Return the bin of every value (uint16), and per bin the number and the float64 sum of its values."""
    limit = float(np.abs([vector.min(), vector.max()]).max()) + _MARGIN
    bins = np.empty(vector.size, np.uint16)
    counts, sums = np.zeros(levels, np.int64), np.zeros(levels)
    for start in range(0, vector.size, _CHUNK):
        chunk = vector[start : start + _CHUNK].astype(np.float64)
        index = ((chunk + limit) * (levels / (2 * limit))).astype(np.int64)
        counts += np.bincount(index, minlength=levels)
        sums += np.bincount(index, chunk, minlength=levels)
        bins[start : start + _CHUNK] = index
    return bins, counts, sums


def _companding_start(points, levels):
    """Return quantiles of the cube root of the density; between order statistics of equal spacing p its
    integral is p^(1/3) gap^(2/3)."""
    weight = np.concatenate([[0.0], np.cumsum(np.diff(points) ** (2 / 3))])
    return np.interp((np.arange(levels) + 0.5) * (weight[-1] / levels), weight, points)


def _bisection_start(points, levels):
    """Return the means of at most `levels` clusters, from repeatedly splitting the cluster with the largest
    squared error at its mean."""
    offset = points.mean()  # taken off so that the differences of squares below do not cancel
    first = np.concatenate([[0.0], np.cumsum(points - offset)])
    second = np.concatenate([[0.0], np.cumsum((points - offset) ** 2)])

    def cluster(start, stop):
        total = first[stop] - first[start]
        # minus the squared error: a heap pops its least
        return total * total / (stop - start) - (second[stop] - second[start]), start, stop

    heap, whole = [cluster(0, points.size)], list[tuple]()
    while heap and len(heap) + len(whole) < levels:
        negative_error, start, stop = heapq.heappop(heap)
        split = int(np.searchsorted(points, offset + (first[stop] - first[start]) / (stop - start)))
        if start < split < stop:
            heapq.heappush(heap, cluster(start, split))
            heapq.heappush(heap, cluster(split, stop))
        else:  # its values are equal
            whole.append((negative_error, start, stop))
    bounds = np.sort([start for _, start, _ in heap + whole] + [points.size])
    return offset + np.diff(first[bounds]) / np.diff(bounds)


def _lloyd(ordered, prefix_sums, centres, iterations):
    """Run Lloyd iterations on sorted values; a cluster that runs empty is dropped."""
    for _ in range(iterations):
        bounds = np.unique(_boundaries(ordered, centres))
        moved = np.diff(prefix_sums[bounds]) / np.diff(bounds)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _midpoints(centres):
    # float32 as the values are: a float64 key would make searchsorted copy the whole vector to float64
    centres = centres.astype(np.float64)
    return ((centres[1:] + centres[:-1]) / 2).astype(np.float32)


def _boundaries(ordered, centres):
    """Return the bounds between the values of neighbouring centres: the values nearest to centre i are
    ``ordered[bounds[i]:bounds[i + 1]]``."""
    return np.concatenate([[0], np.searchsorted(ordered, _midpoints(centres), side="right"), [ordered.size]])


def _float16(values):
    return values.astype(np.float16) + np.float16(0)  # adding zero makes -0.0 the same codeword as 0.0


def _distinct_float16(values, return_inverse=False):
    """Return ascending distinct float16 values. They are sorted as float32: NumPy 2.4's AVX-512 sort of
    float16 leaves repeated values out of order."""
    distinct = np.unique(_float16(values).astype(np.float32), return_inverse=return_inverse)
    return (distinct[0].astype(np.float16), distinct[1]) if return_inverse else distinct.astype(np.float16)


def _symbol_type(codebook):
    return np.uint8 if codebook.size <= 256 else np.uint16
