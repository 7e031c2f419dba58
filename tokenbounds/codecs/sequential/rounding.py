"""Sequential rounding of a matrix: column by column, each after the later ones have taken up the errors of
those before it.

For a layer y = W x with second moments H = E[x x^T] and weights g of its outputs, the error

    sum_i g_i (w_i - w^_i) H (w_i - w^_i)^T

is, with H^-1 = U^T U, U upper triangular, the sum of g_i e_ij^2 over all rows i and columns j, where e_ij is
the rounding error of column j, after the feedback, over U_jj [Frantar et al. 2022, GPTQ]. Steps proportional
to U_jj / sqrt(g_i) make all terms equally large: for numbers that are entropy coded that is the least error
at a length where no step exceeds the spread of what it rounds ("waterfilling"; WaterSIC, arXiv 2603.04956).
"""

import math

import numpy as np
import torch

from tokenbounds.codecs.sequential.matrix import (
    LEAST_EXPONENT,
    MOST_EXPONENT,
    MOST_NUMBER,
    SPREAD,
    Stepped,
    sides,
    step,
)
from tokenbounds.errors import InputError

_BLOCK = 64  # columns whose errors act on later ones in one matrix product
# in a weight before the feedback; one input of a real model may be a thousand times as large as the others
_MOST_STEPS = 4096
_MOST_INT8 = 127  # whose absolute values are int8 too
_PLAIN_STEPS = 64  # of a tensor that no moments are known of, in its root mean square


def feedback(hessian, damping=0.01, name="matrix"):
    """Compute U, upper triangular, with H^-1 = U^T U, of the damped second moments of a layer's inputs.

    Parameters
    ----------
    hessian : Tensor, shape (columns, columns)
        Symmetric.
    damping : float
        Share of the mean of its diagonal that is added to the diagonal.
    name : str
        Name in errors.

    Returns
    -------
    Tensor of float32, shape (columns, columns)

    Raises
    ------
    InputError
        It is not finite, or singular even with the damping.
    """
    hessian = hessian.double()
    if not hessian.isfinite().all():
        raise InputError(f"{name}: second moments of its inputs are not finite; expected numbers")
    mean = hessian.diagonal().mean()
    # each of these matrices takes a gigabyte for a layer of 11,000 inputs: as few as can be at a time
    damped = hessian.flip(0, 1)
    damped.diagonal().add_(damping * mean)
    root, failed = torch.linalg.cholesky_ex(damped)
    del damped
    if failed or not mean > 0:
        raise InputError(
            f"{name}: the second moments of its inputs are singular (mean square {float(mean):.3g}, "
            f"damping {damping}); expected positive definite ones, of more calibration tokens or more damping"
        )
    upper = root.flip(0, 1)  # H = R R^T with R upper triangular, so U = R^-1
    del root
    inverse = torch.eye(len(hessian), dtype=torch.float64, device=hessian.device).T  # by columns, as LAPACK's
    return torch.linalg.solve_triangular(upper, inverse, upper=True, out=inverse).float()


def exponents_of(steps):
    """Return the nearest exponents of steps (any positive Tensor), 4 times their binary logarithm, as int64
    NumPy array."""
    return torch.round(4 * torch.log2(steps.double())).long().cpu().numpy()


def stepped(weight, upper, row_steps, column_steps, name="matrix"):
    """Round a matrix sequentially.

    Parameters
    ----------
    weight : Tensor of float32, shape (rows, columns)
    upper : Tensor of float32, shape (columns, columns), or None
        From `feedback`; None rounds without it.
    row_steps, column_steps : Tensor, shapes (rows,), (columns,)
        The step at (i, j) is their product, rounded to a power of 2^(1/4); larger in a column of which a
        weight would have more than 4,096 steps.
    name : str
        Name in errors.

    Returns
    -------
    Stepped
    """
    weight = weight.float()
    largest = (weight.abs() / row_steps.float()[:, None]).amax(0)
    column_steps = torch.maximum(column_steps.float(), largest / _MOST_STEPS)
    rows, columns = (_clipped(exponents_of(part)) for part in (row_steps, column_steps))
    exponent = int(rows.min() + columns.min())
    rows, columns = rows - rows.min(), columns - columns.min()
    if not LEAST_EXPONENT <= exponent <= MOST_EXPONENT:
        expected = f"2^{LEAST_EXPONENT // 4} to 2^{MOST_EXPONENT // 4}"
        raise InputError(f"{name}: a step of 2^{exponent / 4:g}; expected {expected}")
    device = weight.device
    by_row = torch.from_numpy(step(exponent + rows)).to(device)
    by_column = torch.from_numpy(step(columns)).to(device)
    most = float(((weight.abs() / by_row[:, None]).amax(0) / by_column).max())
    if not most <= MOST_NUMBER:  # beside columns whose steps are 2^16 times smaller
        raise InputError(f"{name}: a weight of {most:.6g} steps; expected at most {MOST_NUMBER}")
    numbers = _round(weight, upper, by_row, by_column)
    low, high = numbers.aminmax()
    kind = torch.int8 if max(-low, high) <= _MOST_INT8 else torch.int16
    return Stepped(tuple(weight.shape), numbers.to(kind).cpu().numpy(), exponent, rows, columns)


def _clipped(exponents):
    """Bring exponents within the spread that a message can hold, around their median."""
    middle = int(np.median(exponents))
    return np.clip(exponents, middle - SPREAD // 2, middle + SPREAD // 2)


def _round(weight, upper, by_row, by_column):
    """Round to whole multiples of the steps, with the feedback of `upper`."""
    numbers = torch.empty_like(weight)
    if upper is None:
        return torch.round(weight / by_row[:, None] / by_column)
    weight = weight.clone()
    ratios = upper / upper.diagonal()[:, None]
    count = weight.shape[1]
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        block = weight[:, start:stop].T.contiguous()  # a column of the matrix is a row here
        errors = torch.empty_like(block)
        for j in range(stop - start):
            steps = by_row * by_column[start + j]
            rounded = torch.round(block[j] / steps).clamp_(-MOST_NUMBER, MOST_NUMBER)
            numbers[:, start + j] = rounded
            errors[j] = block[j] - rounded * steps
            if j + 1 < stop - start:
                block[j + 1 :].addr_(ratios[start + j, start + j + 1 : stop], errors[j], alpha=-1)
        if stop < count:
            weight[:, stop:].addmm_(errors.T, ratios[start:stop, stop:], alpha=-1)
    return numbers


def round_plainly(tensor):
    """Round a tensor (ndarray of float32) of which only its values are known: to a 64th of their root mean
    square, or coarser where a value would have too many steps."""
    values = torch.from_numpy(np.ascontiguousarray(tensor, np.float32)).reshape(sides(tensor.shape))
    deviation, largest = math.sqrt(float((values.double() ** 2).mean())), float(values.abs().max())
    size = max(deviation / _PLAIN_STEPS, largest / _MOST_STEPS)
    ones = torch.ones(1)
    spread = torch.full((1,), max(size, 2.0 ** (LEAST_EXPONENT // 8)))
    found = stepped(values, None, spread.expand(values.shape[0]), ones.expand(values.shape[1]))
    return Stepped(tuple(tensor.shape), found.numbers, found.exponent, found.rows, found.columns)
