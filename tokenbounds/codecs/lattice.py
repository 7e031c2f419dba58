"""Post-training quantization of linear layers on the E8 lattice, after QuIP# [Tseng et al. 2024, arXiv
2402.04396].

A weight W (m, n) becomes, in 2, 3 or 4 bits per weight,

    W^ = diag(scale) diag(SV) H_m A H_n^T diag(SU),

with random signs SU (n,) and SV (m,), orthogonal Hadamard matrices (`tokenbounds.models.quip.linear`),
lattice points A and one scale per block of rows. The signs are drawn from a seed, so that a message holds the
scales and the codes of A.

Quantizing uses floating point as any machine rounds it. Decoding gives the same bits on every machine
(`reconstruct`): A is an integer matrix over a common denominator, the Hadamard matrices without their norm
have entries +-1, and there is one rounding per weight. `tokenbounds.codecs.lattice_codec` writes the message.
"""

import dataclasses
import math

import numpy as np
import torch

from tokenbounds.codecs.e8p_rounding import DIMENSION, STAGES, round_to_lattice
from tokenbounds.codecs.scalar import FLOAT16_MAX
from tokenbounds.errors import InputError
from tokenbounds.io.progress import Steps
from tokenbounds.models.quip.codebooks import e8p_table
from tokenbounds.models.quip.hadamard import hadamard, hadamard_order, hadamard_transform
from tokenbounds.randomness import normals

# Root mean square of the weights when they are rounded, by bits, in units of the lattice.
_SCALES = {2: 0.9, 3: 0.98, 4: 1.03}
_MAX_SEED = 2**32
MAX_SCALE = FLOAT16_MAX  # the range of the other codecs, in which no decoded weight overflows float32
_GROUP = 128  # number of columns whose errors act on the others in one matrix product


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A weight matrix on the lattice.

    Attributes
    ----------
    bits : int
        Bits per weight before entropy coding: 2, 3 or 4.
    seed, name : int, str
        Name of the random stream that the signs are drawn from.
    codes : tuple of ndarray of uint16 or uint8, shape (m, n / 8)
        One array per stage: rows of `e8p_table` (uint16) or `e81b_table` (uint8).
    scales : ndarray of float32, shape (blocks,)
    sizes : tuple of int
        Number of rows of each block.
    """

    bits: int
    seed: int
    name: str
    codes: tuple
    scales: np.ndarray
    sizes: tuple

    @property
    def shape(self):
        """(m, n)."""
        rows, columns = self.codes[0].shape
        return rows, columns * DIMENSION

    @property
    def SU(self):
        """Signs of the inputs, float16 (n,)."""
        return _signs(self.seed, self.name, "inputs", self.shape[1]).astype(np.float16)

    @property
    def SV(self):
        """Signs of the outputs, float16 (m,)."""
        return _signs(self.seed, self.name, "outputs", self.shape[0]).astype(np.float16)


def _signs(seed, name, side, size):
    return np.sign(normals(seed, "lattice", name, side, shape=(size,)))  # no normal of the stream is 0


def check_shape(shape, name="weight"):
    """Raise an `InputError` that begins with `name` unless a weight of this shape (outputs, inputs) has a
    place on the lattice.

    Both sides must have a Hadamard matrix (a power of two, or one times an order of
    `tokenbounds.models.quip.hadamard.HADAMARD_ORDERS`), and the inputs must be a multiple of 8.
    """
    if len(shape) != 2:
        raise InputError(f"{name}: shape {list(shape)} has {len(shape)} dimensions; expected 2")
    if shape[1] % DIMENSION:
        raise InputError(f"{name}: input width {shape[1]} is not a multiple of {DIMENSION}")
    for side, size in zip(("output", "input"), shape, strict=True):
        try:
            hadamard_order(size)
        except InputError as error:
            raise InputError(f"{name}: {side} {error}") from None


def check_bits_and_seed(bits, seed):
    """Raise an `InputError` unless `bits` is 2, 3 or 4 and `seed` an integer from 0 to 2^32 - 1."""
    if type(bits) is not int or bits not in STAGES:
        raise InputError(f"bits is {bits!r}; expected one of {', '.join(map(str, STAGES))}")
    if type(seed) is not int or not 0 <= seed < _MAX_SEED:
        raise InputError(f"seed is {seed!r}; expected an integer from 0 to {_MAX_SEED - 1}")


def _hadamard_transposed(x):
    """Return H_n^T x of x (n, columns): the transposed Hadamard matrix of order K first, then the symmetric
    rest on each of its K parts."""
    n, columns = x.shape
    order = hadamard_order(n)
    if order == 1:
        return hadamard_transform(x)
    x = torch.tensor(hadamard(order)).to(x).T @ x.reshape(order, -1) / math.sqrt(order)
    parts = x.reshape(order, n // order, columns).transpose(0, 1)  # (n / K, K, columns)
    return (
        hadamard_transform(parts.reshape(n // order, -1))
        .reshape(parts.shape)
        .transpose(0, 1)
        .reshape(n, columns)
    )


def quantize_linear(
    blocks, hessian, bits, *, seed, name="weight", scale=None, tuning_rounds=10, damping=0.01
):
    """Round the weights of a linear layer to the lattice, with feedback of the rounding errors.

    Random signs and Hadamard transforms on both sides make weights and Hessian incoherent. Blocks of 8
    columns are rounded one after the other, each after adding a correction for the errors of those before it
    (block LDL of the Hessian)::

        columns    | 0..7 | 8..15 |  ...  | n-8..n-1 |
        rounded      last    <-------------   first

    Tuning rounds then revisit each block given all others. All this lowers tr((W - W^) H (W - W^)^T), the
    mean squared error of the layer's output.

    Parameters
    ----------
    blocks : array_like (m, n), or list of array_like (m_i, n)
        The weight, or several that read the same inputs and are quantized as one layer, each with its own
        scale.
    hessian : array_like, shape (n, n)
        E[x x^T] of the layer's inputs (`tokenbounds.codecs.calibration.hessians`). The computation runs on
        the device of this tensor.
    bits : int
        2, 3 or 4.
    seed : int
        Seed of the signs, 0 to 2^32 - 1.
    name : str
        Name of the layer: in errors, and the other part of the name of the signs' stream.
    scale : float, optional
        Root mean square of the weights when they are rounded, the lattice having one point per unit of
        volume; 0.9, 0.98 and 1.03 for 2, 3 and 4 bits by default.
    tuning_rounds : int
        Most tuning rounds. They end earlier when nothing changes.
    damping : float
        Addition to the diagonal of the Hessian, relative to its mean.

    Returns
    -------
    Quantized

    Raises
    ------
    InputError
        A shape that `check_shape` refuses, blocks of different widths, a Hessian of another shape or that is
        not positive definite, a value that is not finite, an option out of range.

    Notes
    -----
    The reference takes every step of a tuning round. The nearest point need not lower the error, as the rest
    of the Hessian weighs the eight coordinates differently, and with two stages it often does not; here a row
    keeps its codes unless its error falls.
    """
    check_bits_and_seed(bits, seed)
    scale = _SCALES[bits] if scale is None else scale
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale}; expected a positive number")
    if not (math.isfinite(damping) and damping >= 0):
        raise InputError(f"damping is {damping}; expected a number of at least 0")
    label = f"tensor {name!r}"
    hessian = torch.as_tensor(hessian).double()
    blocks = [
        torch.as_tensor(block).to(hessian.device).double()
        for block in (blocks if isinstance(blocks, list | tuple) else [blocks])
    ]
    sizes = tuple(len(block) for block in blocks)
    if any(block.ndim != 2 or block.shape[1] != blocks[0].shape[1] for block in blocks):
        shapes = [list(block.shape) for block in blocks]
        raise InputError(f"{label}: blocks have shapes {shapes}; expected matrices of one width")
    m, n = sum(sizes), blocks[0].shape[1]
    check_shape((m, n), label)
    if hessian.shape != (n, n):
        raise InputError(f"{label}: the Hessian has shape {list(hessian.shape)}; expected {[n, n]}")
    if not all(part.isfinite().all() for part in (hessian, *blocks)):
        raise InputError(f"{label}: the weight or its Hessian holds a NaN or an infinity")

    rms = [block.square().mean().sqrt().item() for block in blocks]
    if max(rms) > scale * MAX_SCALE:
        expected = f"at most {scale * MAX_SCALE:g}"
        raise InputError(f"{label}: weights have a root mean square of {max(rms):g}; expected {expected}")
    SU, SV = (
        torch.from_numpy(_signs(seed, name, side, size)).to(hessian)
        for side, size in (("inputs", n), ("outputs", m))
    )
    # a block of zeros stays one: whatever its points, its scale is 0
    weight = (
        torch.cat([block * (scale / (size or 1.0)) for block, size in zip(blocks, rms, strict=True)])
        * SV[:, None]
        * SU
    )
    weight = _hadamard_transposed(_hadamard_transposed(weight).T).T
    mean = hessian.diagonal().mean()
    if not mean > 0:
        raise InputError(
            f"{label}: the diagonal of its Hessian has a mean of {mean}; expected a positive number"
        )
    hessian = hessian / mean * SU * SU[:, None]
    hessian = _hadamard_transposed(_hadamard_transposed(hessian).T)
    hessian.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        reason = f"its Hessian is not positive definite with a damping of {damping}"
        raise InputError(f"{label}: {reason}; expected a larger damping")

    weight, errors = weight.float(), torch.zeros(m, n, device=weight.device)
    codes = [torch.zeros(m, n // DIMENSION, dtype=torch.int32, device=weight.device) for _ in STAGES[bits]]
    _round_with_feedback(weight, factor, bits, codes, errors)
    _tune(weight, hessian, bits, codes, errors, tuning_rounds)
    return Quantized(
        bits=bits,
        seed=seed,
        name=name,
        codes=tuple(
            narrow(stage.cpu().numpy(), table) for stage, (table, _) in zip(codes, STAGES[bits], strict=True)
        ),
        scales=(np.array(rms) / scale).astype(np.float32),
        sizes=sizes,
    )


def narrow(codes, table):
    """Convert codes to the smallest type that holds a row of their table: uint16 or uint8."""
    return codes.astype(np.uint16 if table is e8p_table else np.uint8)


def _groups(n):
    """Yield groups of up to `_GROUP` columns, each with its blocks of 8; groups and blocks from last to
    first."""
    for start in reversed(range(0, n, _GROUP)):
        group = slice(start, min(start + _GROUP, n))
        yield (
            group,
            [
                slice(first, first + DIMENSION)
                for first in reversed(range(group.start, group.stop, DIMENSION))
            ],
        )


def _round_with_feedback(weight, factor, bits, codes, errors):
    """Run block LDLQ [Tseng et al. 2024] with the Cholesky `factor` of the Hessian; fill `codes`, and
    `errors` = weight - points."""
    for group, blocks in _groups(weight.shape[1]):
        # L of the block LDL: each block column of the factor, times the inverse of its diagonal block
        lower = {
            part.start: torch.linalg.solve_triangular(
                factor[part, part], factor[:, part], upper=False, left=False
            )
            for part in blocks
        }
        later = torch.cat([lower[part.start] for part in reversed(blocks)], 1)[group.stop :].float()
        feedback = errors[:, group.stop :] @ later
        for part in blocks:
            own = lower[part.start][part.stop : group.stop].float()
            shift = feedback[:, _within(part, group)] + errors[:, part.stop : group.stop] @ own
            nearest, points = round_to_lattice(weight[:, part] + shift, bits)
            for stage, code in zip(codes, nearest, strict=True):
                stage[:, part.start // DIMENSION] = code
            errors[:, part] = weight[:, part] - points


def _tune(weight, hessian, bits, codes, errors, rounds):
    """Run coordinate descent on the error, a block of columns at a time; update `codes` and `errors`."""
    hessian = hessian.float()
    for _ in range(rounds):
        changed = False
        for group, blocks in _groups(weight.shape[1]):
            gradients = errors @ hessian[group].T  # (m, group); symmetric, but rows are contiguous
            for part in blocks:
                gradient, curvature = gradients[:, _within(part, group)], hessian[part, part]
                now = weight[:, part] - errors[:, part]
                nearest, points = round_to_lattice(
                    now + torch.linalg.solve(curvature, gradient, left=False), bits
                )
                step = points - now
                falls = (step @ curvature * step).sum(1) < 2 * (step * gradient).sum(1)
                for stage, code in zip(codes, nearest, strict=True):
                    kept = stage[:, part.start // DIMENSION]
                    kept.copy_(torch.where(falls, code, kept))
                step *= falls[:, None]
                errors[:, part] -= step
                gradients -= step @ hessian[part, group]
                changed |= bool(falls.any())
        if not changed:
            break


def _within(part, group):
    return slice(part.start - group.start, part.stop - group.start)


def reconstruct(result):
    """Compute the dense weight of a `Quantized`, the same bits on every machine.

    Parameters
    ----------
    result : Quantized

    Returns
    -------
    ndarray of float32, shape (m, n)

    Notes
    -----
    The transforms add integers below 2^53 in float64, which is exact in any order; the division by their
    norm, which `hadamard_transform` makes, is undone by rounding to the nearest integer. Each weight is then
    that integer times its row's factor in float64, rounded once more to float32.
    """
    m, n = result.shape
    stages = STAGES[result.bits]
    points = sum(
        (multiplier * table().astype(np.float64))[codes]
        for codes, (table, multiplier) in zip(result.codes, stages, strict=True)
    )
    points = torch.from_numpy(points.reshape(m, n))
    points = _integer_transform(_integer_transform(points.T).T).numpy()
    factors = np.repeat(result.scales.astype(np.float64) / (stages[0][1] * math.sqrt(m * n)), result.sizes)
    points *= (factors * result.SV)[:, None]
    points *= result.SU
    return points.astype(np.float32)


def _integer_transform(x):
    """Return sqrt(n) H_n x of integers x (n, columns) in float64, exact."""
    return hadamard_transform(x).mul_(math.sqrt(len(x))).round_()


def quantize_model(state, hessians, bits, *, seed, **options):
    """Quantize several weights with `quantize_linear`, each with its own stream of signs.

    Parameters
    ----------
    state : dict of str to array_like, shape (m, n)
        The weights to quantize.
    hessians : dict of str to array_like, shape (n, n)
        The Hessian of each weight; others are ignored.
    bits, seed, **options
        See `quantize_linear`.

    Returns
    -------
    dict of str to Quantized

    Raises
    ------
    InputError
        See `quantize_linear`; a weight without a Hessian.
    """
    if missing := sorted(state.keys() - hessians.keys()):
        raise InputError(f"tensor {missing[0]!r} has no Hessian; expected one for each weight to quantize")
    quantized = {}
    with Steps("rounding to the lattice", len(state)) as progress:
        for name, weight in state.items():
            quantized[name] = quantize_linear(weight, hessians[name], bits, seed=seed, name=name, **options)
            progress.show()
    return quantized
