"""Post-training quantization of linear layers on the E8 lattice, as QuIP# does it [Tseng et al. 2024, arXiv 2402.04396], and its message.

A weight W (m, n) becomes, in 2, 3 or 4 bits per weight,

    W^ = diag(scale) diag(SV) H_m A H_n^T diag(SU),

with random signs SU (n,) and SV (m,), orthogonal Hadamard matrices (`tokenbounds.models.quip`), lattice points A and one scale per block of
rows. The signs are drawn from a seed, so that a message holds the scales and the codes of A.

Quantizing takes floating point as it comes. Decoding is the same bits on every machine (`reconstruct`): A is an integer matrix over a
common denominator, the Hadamard matrices without their norm have entries +-1, and what is left is one rounding per weight.
"""

import dataclasses
import functools
import math

import constriction
import numpy as np
import torch

from tokenbounds.errors import InputError
from tokenbounds.models.quip import e8p_table, e81b_table, hadamard, hadamard_order, hadamard_transform
from tokenbounds.quantize import FLOAT16_MAX
from tokenbounds.streams import normals

# Per bits: the table and the multiplier of each stage. A = sum over stages of point * multiplier, over the first multiplier; products are
# integers. The residual scales of QuIP#, 2.04 and 3.45, are the ratios 204 / 100 and 276 / 80.
_STAGES = {2: ((e8p_table, 4),), 3: ((e8p_table, 204), (e81b_table, 100)), 4: ((e8p_table, 276), (e8p_table, 80))}
_SCALES = {2: 0.9, 3: 0.98, 4: 1.03}  # of the weights when they are rounded, in units of the lattice
_DIMENSION = 8
_MAX_SEED = 2**32
_MAX_SCALE = FLOAT16_MAX  # the range of the other codecs; and no decoded weight overflows float32
_GROUP = 128  # columns whose errors act on the others in one matrix product
_NEAREST_ROWS = 1 << 16  # vectors rounded at a time: temporaries stay small

# Magnitudes of the E8P codebook: n3 coordinates 3/2, n5 5/2, the rest 1/2. All placements of these seven are in it, of five 3/2 only 29.
_N3 = (0, 1, 2, 3, 4, 0, 1)
_N5 = (0, 0, 0, 0, 0, 1, 1)
_PARTIAL_N3 = 5
_E8P_COORDINATES = (0, 2, 4, 6, 1, 3, 5, 7)  # that the sign bits 0..7 of a code belong to


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A weight matrix on the lattice.

    Attributes
    ----------
    bits : int
        Bits per weight before entropy coding: 2, 3 or 4.
    seed : int
    name : str
        With `seed`, what the signs are drawn from.
    codes : tuple of ndarray of uint16 or uint8, shape (m, n / 8)
        One array per stage: rows of `e8p_table` (uint16) or `e81b_table` (uint8).
    scales : ndarray of float32, shape (blocks,)
    sizes : tuple of int
        Rows of each block.
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
        return rows, columns * _DIMENSION

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


# ---------------------------------------------------------------- calibration


def hessians(model, batches, forward=None):
    """Second moments E[x x^T] of the inputs of each ``torch.nn.Linear`` of a model: the Hessian of the layer's squared output error.

    Parameters
    ----------
    model : torch.nn.Module
        Used as it is: the caller puts it into evaluation mode.
    batches : iterable
        What `forward` takes, e.g. token ids (B, T).
    forward : callable, optional
        Runs the model on one batch; the model itself by default.

    Returns
    -------
    dict of str to Tensor of float64, shape (n, n)
        On the CPU, by the name of the weight in the state dictionary; uncentred, the mean over all input vectors.

    Raises
    ------
    InputError
        No linear layers, no batches, a layer that no batch reached, or an input that is not finite.

    Notes
    -----
    A batch's products are taken in float64 on the CPU and in float32 on a GPU; they are added up in float64.
    """
    linears = {
        f"{name}.weight" if name else "weight": module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    if not linears:
        raise InputError("the model has no torch.nn.Linear; expected at least one to calibrate")
    sums, counts = {}, dict.fromkeys(linears, 0)

    def collect(name):
        def hook(_, inputs):
            x = inputs[0].detach().flatten(0, -2)  # (vectors, n)
            x = x.double() if x.device.type == "cpu" else x.float()
            product = (x.T @ x).double()
            sums[name] = sums[name] + product if name in sums else product
            counts[name] += len(x)

        return hook

    handles = [module.register_forward_pre_hook(collect(name)) for name, module in linears.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                (forward or model)(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, count in counts.items():
        if not count:
            raise InputError(f"tensor {name!r}: no calibration batch reached its layer; expected at least one input vector")
    means = {name: (sums[name] / count).cpu() for name, count in counts.items()}
    for name, mean in means.items():
        if not mean.isfinite().all():
            raise InputError(f"tensor {name!r}: its layer's calibration inputs are not finite")
    return means


# ---------------------------------------------------------------- rounding


def nearest_e8p(x):
    """Codes of the E8P points nearest to vectors: exact, without a search over the codebook.

    A codebook point is a magnitude row times signs of one parity, plus or minus 1/4. For a shift, the best signs are those of the vector,
    but for the parity, which costs least at the smallest product of magnitudes; and among all placements of given magnitudes the best one
    is in the order of the vector's. Only the rows with five 3/2, of which the codebook has 29 of 56, are tried one by one, and only for
    vectors for which the best of the 56 would win.

    Parameters
    ----------
    x : Tensor of floating point, shape (N, 8)

    Returns
    -------
    Tensor of int32, shape (N,)
        Rows of `e8p_table`, on the device of `x`.
    """
    return torch.cat([_nearest_e8p(part) for part in x.split(_NEAREST_ROWS)])


def _nearest_e8p(x):
    n3, n5 = torch.tensor(_N3, device=x.device), torch.tensor(_N5, device=x.device)
    y = torch.stack([x - 0.25, x + 0.25])  # (2, N, 8)
    negative = y < 0
    odd = negative.sum(-1, keepdim=True) & 1
    magnitude = y.abs()
    ordered, order = magnitude.sort(-1, descending=True)
    top = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))  # sum of the j largest at j
    flip_cost, total = 2 * ordered[..., -1:], top[..., -1:]

    # |y|^2 - distance^2 of the best placement of each kind of magnitudes
    gains = total + 2 * (top[..., n3 + n5] + top[..., n5] - 1 - n3 - 3 * n5) - flip_cost * (odd ^ (n3 & 1))  # (2, N, 7)
    gain, kind = gains.max(-1)
    key_sums = torch.nn.functional.pad((3 ** (7 - order)).cumsum(-1), (1, 0))
    high = n5[kind]
    key = (key_sums.gather(-1, (n3[kind] + high)[..., None]) + key_sums.gather(-1, high[..., None])).squeeze(-1)
    flip = odd.squeeze(-1) ^ (n3[kind] & 1)
    flipped = order[..., -1]

    bound = (total + 2 * (top[..., _PARTIAL_N3, None] - 1 - _PARTIAL_N3) - flip_cost * (odd ^ 1)).squeeze(-1)
    at = torch.nonzero(bound > gain, as_tuple=True)
    rows, keys = (torch.tensor(part, device=x.device) for part in _partial_rows())
    products = magnitude[at][:, None] * rows.to(x)  # (found, 29, 8)
    smallest, where = products.min(-1)
    row_flip = odd[at] ^ 1
    row_gain, row = (2 * products.sum(-1) - 12 - 4 * smallest * row_flip).max(-1)
    better = row_gain > gain[at]
    at, row = tuple(index[better] for index in at), row[better]
    gain[at], key[at], flip[at] = row_gain[better], keys[row], row_flip[better].squeeze(-1)
    flipped[at] = where[better].gather(-1, row[:, None]).squeeze(-1)

    shift = (y.square().sum(-1) - gain).argmin(0)  # 0: +1/4, 1: -1/4
    pick = (shift, torch.arange(len(x), device=x.device))
    index, negated = _e8p_rows(x.device)
    index, negated = index[key[pick]], negated[key[pick]]
    signs = negative[pick].int()
    signs.scatter_add_(-1, flipped[pick][:, None], flip[pick][:, None].int())
    signs[:, -1] += negated
    signs = (signs[:, list(_E8P_COORDINATES)] & 1) << torch.arange(_DIMENSION, device=x.device, dtype=torch.int32)
    return index << 8 | signs.sum(-1, dtype=torch.int32) ^ shift.int()


@functools.cache
def _magnitudes():
    """Magnitude rows of the E8P codebook doubled, (256, 8), and whether its coordinate 7 is negated, (256,)."""
    rows = e8p_table()[::256] - 0.25  # code 0 of each row: no sign flipped, 1/4 added
    return np.abs(2 * rows).astype(np.int64), rows[:, 7] < 0


def _keys(doubled):
    return (doubled - 1) // 2 @ 3 ** np.arange(7, -1, -1)


@functools.cache
def _partial_rows():
    doubled, _ = _magnitudes()
    doubled = doubled[(doubled == 3).sum(1) == _PARTIAL_N3]
    return doubled / 2, _keys(doubled)


@functools.cache
def _e8p_rows(device):
    """By key of a magnitude row: its number, and whether its coordinate 7 is negated; int32 (6561,)."""
    doubled, negated = _magnitudes()
    index, negative = np.zeros((2, 3**8), np.int32)
    index[_keys(doubled)], negative[_keys(doubled)] = np.arange(256), negated
    return torch.from_numpy(index).to(device), torch.from_numpy(negative).to(device)


def _nearest_e81b(x):
    table = torch.tensor(e81b_table()).to(x)
    return (x @ table.T - table.square().sum(1) / 2).argmax(1).int()


def _round(x, bits):
    """Codes of each stage, list of (N,), and the lattice points they stand for, (N, 8): each stage takes what the one before left."""
    stages = _STAGES[bits]
    codes, points = [], torch.zeros_like(x)
    for table, multiplier in stages:
        factor = multiplier / stages[0][1]
        nearest = nearest_e8p if table is e8p_table else _nearest_e81b
        codes.append(nearest((x - points) / factor))
        points = points + _device_table(table, x.device)[codes[-1].long()].to(x) * factor
    return codes, points


@functools.cache
def _device_table(table, device):
    return torch.tensor(table(), device=device)


# ---------------------------------------------------------------- one linear


def check_shape(shape, where="weight"):
    """Raise an `InputError` that begins with `where` unless a weight of this shape (outputs, inputs) has a place on the lattice.

    Both sides must have a Hadamard matrix (a power of two, or one times an order of `tokenbounds.models.quip.HADAMARD_ORDERS`), and the
    inputs must be a multiple of 8.
    """
    if len(shape) != 2:
        raise InputError(f"{where}: shape {list(shape)} has {len(shape)} dimensions; expected 2")
    if shape[1] % _DIMENSION:
        raise InputError(f"{where}: input width {shape[1]} is not a multiple of {_DIMENSION}")
    for side, size in zip(("output", "input"), shape, strict=True):
        try:
            hadamard_order(size)
        except InputError as error:
            raise InputError(f"{where}: {side} {error}") from None


def _check_bits_and_seed(bits, seed):
    if type(bits) is not int or bits not in _STAGES:
        raise InputError(f"bits is {bits!r}; expected one of {', '.join(map(str, _STAGES))}")
    if type(seed) is not int or not 0 <= seed < _MAX_SEED:
        raise InputError(f"seed is {seed!r}; expected an integer from 0 to {_MAX_SEED - 1}")


def _hadamard_transposed(x):
    """H_n^T x (n, columns): the transposed Hadamard matrix of order K first, then the symmetric rest on each of its K parts."""
    n, columns = x.shape
    order = hadamard_order(n)
    if order == 1:
        return hadamard_transform(x)
    x = torch.tensor(hadamard(order)).to(x).T @ x.reshape(order, -1) / math.sqrt(order)
    parts = x.reshape(order, n // order, columns).transpose(0, 1)  # (n / K, K, columns)
    return hadamard_transform(parts.reshape(n // order, -1)).reshape(parts.shape).transpose(0, 1).reshape(n, columns)


def quantize_linear(blocks, hessian, bits, *, seed, name="weight", scale=None, tuning_rounds=10, damping=0.01):
    """Round the weights of a linear layer to the lattice, with feedback of the rounding errors.

    Random signs and Hadamard transforms on both sides make weights and Hessian incoherent; blocks of 8 columns are rounded from last to
    first, each after what the errors made so far can be corrected by (block LDL of the Hessian); tuning rounds then revisit each block
    given all others. The error that this lowers is tr((W - W^) H (W - W^)^T), the mean squared error of the layer's output.

    Parameters
    ----------
    blocks : array_like (m, n), or list of array_like (m_i, n)
        The weight, or several that read the same inputs and are quantized as one layer, each with its own scale.
    hessian : array_like, shape (n, n)
        E[x x^T] of the layer's inputs (`hessians`). A tensor's device is where the work is done.
    bits : int
        2, 3 or 4.
    seed : int
        Of the signs, 0 to 2^32 - 1.
    name : str
        Names the layer: the other part of the signs' stream, and what errors call it.
    scale : float, optional
        Root mean square of the weights when they are rounded, the lattice having one point per unit of volume; 0.9, 0.98 and 1.03 for 2,
        3 and 4 bits by default.
    tuning_rounds : int
        Most tuning rounds. They end earlier when nothing changes.
    damping : float
        Added to the diagonal of the Hessian, relative to its mean.

    Returns
    -------
    Quantized

    Raises
    ------
    InputError
        A shape that `check_shape` refuses, blocks of different widths, a Hessian of another shape or that is not positive definite, a value
        that is not finite, an option out of range.

    Notes
    -----
    The reference takes every step of a tuning round. The nearest point need not lower the error, as the rest of the Hessian weighs the
    eight coordinates differently, and with two stages it often does not; here a row keeps its codes unless its error falls.
    """
    _check_bits_and_seed(bits, seed)
    scale = _SCALES[bits] if scale is None else scale
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale}; expected a positive number")
    if not (math.isfinite(damping) and damping >= 0):
        raise InputError(f"damping is {damping}; expected a number of at least 0")
    where = f"tensor {name!r}"
    hessian = torch.as_tensor(hessian).double()
    blocks = [torch.as_tensor(block).to(hessian.device).double() for block in (blocks if isinstance(blocks, list | tuple) else [blocks])]
    sizes = tuple(len(block) for block in blocks)
    if any(block.ndim != 2 or block.shape[1] != blocks[0].shape[1] for block in blocks):
        raise InputError(f"{where}: blocks have shapes {[list(block.shape) for block in blocks]}; expected matrices of one width")
    m, n = sum(sizes), blocks[0].shape[1]
    check_shape((m, n), where)
    if hessian.shape != (n, n):
        raise InputError(f"{where}: the Hessian has shape {list(hessian.shape)}; expected {[n, n]}")
    if not all(part.isfinite().all() for part in (hessian, *blocks)):
        raise InputError(f"{where}: the weight or its Hessian holds a NaN or an infinity")

    rms = [block.square().mean().sqrt().item() for block in blocks]
    if max(rms) > scale * _MAX_SCALE:
        raise InputError(f"{where}: weights have a root mean square of {max(rms):g}; expected at most {scale * _MAX_SCALE:g}")
    SU, SV = (torch.from_numpy(_signs(seed, name, side, size)).to(hessian) for side, size in (("inputs", n), ("outputs", m)))
    # a block of zeros stays one: whatever its points, its scale is 0
    weight = torch.cat([block * (scale / (size or 1.0)) for block, size in zip(blocks, rms, strict=True)]) * SV[:, None] * SU
    weight = _hadamard_transposed(_hadamard_transposed(weight).T).T
    mean = hessian.diagonal().mean()
    if not mean > 0:
        raise InputError(f"{where}: the diagonal of its Hessian has a mean of {mean}; expected a positive number")
    hessian = hessian / mean * SU * SU[:, None]
    hessian = _hadamard_transposed(_hadamard_transposed(hessian).T)
    hessian.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        raise InputError(f"{where}: its Hessian is not positive definite with a damping of {damping}; expected a larger damping")

    weight, errors = weight.float(), torch.zeros(m, n, device=weight.device)
    codes = [torch.zeros(m, n // _DIMENSION, dtype=torch.int32, device=weight.device) for _ in _STAGES[bits]]
    _round_with_feedback(weight, factor, bits, codes, errors)
    _tune(weight, hessian, bits, codes, errors, tuning_rounds)
    return Quantized(
        bits=bits,
        seed=seed,
        name=name,
        codes=tuple(_narrow(stage.cpu().numpy(), table) for stage, (table, _) in zip(codes, _STAGES[bits], strict=True)),
        scales=(np.array(rms) / scale).astype(np.float32),
        sizes=sizes,
    )


def _narrow(codes, table):
    return codes.astype(np.uint16 if table is e8p_table else np.uint8)


def _groups(n):
    """Groups of up to `_GROUP` columns, each with its blocks of 8; groups and blocks from last to first."""
    for start in reversed(range(0, n, _GROUP)):
        group = slice(start, min(start + _GROUP, n))
        yield group, [slice(first, first + _DIMENSION) for first in reversed(range(group.start, group.stop, _DIMENSION))]


def _round_with_feedback(weight, factor, bits, codes, errors):
    """Block LDLQ [Tseng et al. 2024] with the Cholesky `factor` of the Hessian; fills `codes`, and `errors` = weight - points."""
    for group, blocks in _groups(weight.shape[1]):
        # L of the block LDL: each block column of the factor, times the inverse of its diagonal block
        lower = {part.start: torch.linalg.solve_triangular(factor[part, part], factor[:, part], upper=False, left=False) for part in blocks}
        later = torch.cat([lower[part.start] for part in reversed(blocks)], 1)[group.stop :].float()
        feedback = errors[:, group.stop :] @ later
        for part in blocks:
            own = lower[part.start][part.stop : group.stop].float()
            shift = feedback[:, _within(part, group)] + errors[:, part.stop : group.stop] @ own
            found, points = _round(weight[:, part] + shift, bits)
            for stage, code in zip(codes, found, strict=True):
                stage[:, part.start // _DIMENSION] = code
            errors[:, part] = weight[:, part] - points


def _tune(weight, hessian, bits, codes, errors, rounds):
    """Coordinate descent on the error, a block of columns at a time; updates `codes` and `errors`."""
    hessian = hessian.float()
    for _ in range(rounds):
        changed = False
        for group, blocks in _groups(weight.shape[1]):
            gradients = errors @ hessian[group].T  # (m, group); symmetric, but rows are contiguous
            for part in blocks:
                gradient, curvature = gradients[:, _within(part, group)], hessian[part, part]
                now = weight[:, part] - errors[:, part]
                found, points = _round(now + torch.linalg.solve(curvature, gradient, left=False), bits)
                step = points - now
                falls = (step @ curvature * step).sum(1) < 2 * (step * gradient).sum(1)
                for stage, code in zip(codes, found, strict=True):
                    kept = stage[:, part.start // _DIMENSION]
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
    """The dense weight that a `Quantized` stands for: the same bits on every machine.

    Parameters
    ----------
    result : Quantized

    Returns
    -------
    ndarray of float32, shape (m, n)

    Notes
    -----
    The transforms add integers below 2^53 in float64, which is exact in any order; the division by their norm, which `hadamard_transform`
    makes, is undone by rounding to the nearest integer. Each weight is then that integer times its row's factor in float64, rounded once
    more to float32.
    """
    m, n = result.shape
    stages = _STAGES[result.bits]
    points = sum((multiplier * table().astype(np.float64))[codes] for codes, (table, multiplier) in zip(result.codes, stages, strict=True))
    points = torch.from_numpy(points.reshape(m, n))
    points = _integer_transform(_integer_transform(points.T).T).numpy()
    factors = np.repeat(result.scales.astype(np.float64) / (stages[0][1] * math.sqrt(m * n)), result.sizes)
    points *= (factors * result.SV)[:, None]
    points *= result.SU
    return points.astype(np.float32)


def _integer_transform(x):
    """sqrt(n) H_n x for integers x (n, columns) in float64, exact."""
    return hadamard_transform(x).mul_(math.sqrt(len(x))).round_()


def quantize_model(state, hessians, bits, *, seed, **options):
    """`quantize_linear` for each of several weights, which are their own streams of signs.

    Parameters
    ----------
    state : dict of str to array_like, shape (m, n)
        The weights to quantize.
    hessians : dict of str to array_like, shape (n, n)
        At least one for each of them.
    bits, seed, **options
        As for `quantize_linear`.

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
    return {name: quantize_linear(weight, hessians[name], bits, seed=seed, name=name, **options) for name, weight in state.items()}


# ---------------------------------------------------------------- message


@dataclasses.dataclass(frozen=True)
class _Shells:
    """The points of a codebook by their norm: `shell` and `place` within it of each code, `sizes` of the shells, `codes` shell by shell."""

    shell: np.ndarray
    place: np.ndarray
    sizes: np.ndarray
    codes: np.ndarray

    @property
    def starts(self):
        return np.cumsum(self.sizes) - self.sizes


@functools.cache
def _shells(table):
    _, shell, sizes = np.unique((table() ** 2).sum(1), return_inverse=True, return_counts=True)  # exact: small multiples of 1/16
    codes = np.argsort(shell, kind="stable")
    place = np.empty(len(shell), np.int64)
    place[codes] = np.arange(len(shell)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _Shells(shell, place, sizes, codes)


def _shell_model(counts):
    # float64 division is exact to the last bit everywhere, so that the decoder builds the same model
    counts = np.array(counts, np.float64)
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)


class LatticeCodec:
    """Lattice points, range coded: how long a point is with its empirical frequency, which of the points of that length evenly.

    Incoherent weights are nearly Gaussian, and a Gaussian's density depends on the length only.

    Parameters
    ----------
    others : codec
        For the tensors that are not on the lattice (`tokenbounds.message`); its options are options of this codec too.

    Notes
    -----
    Written, in this order: one bit per tensor, 1 where it is on the lattice, filled up to a byte with zeros; the scale of each tensor on
    the lattice (float32); for each stage, the number of codes in each shell (points of one norm) but the last, over all tensors, by
    ascending norm (varints); the number of range-coded 32-bit words (varint), and these: for each tensor, for each stage, the shells of its
    codes in C order and then, for those in a shell of more than one point, the places in ascending order of codes. The rest is what
    `others` writes for the remaining tensors, if there are any.
    """

    def __init__(self, others):
        self.others = others
        self.defaults = {"bits": 2, "seed": 0, **others.defaults}

    def check(self, options):
        _check_bits_and_seed(options["bits"], options["seed"])
        self.others.check(options)

    def write(self, writer, tensors, options):
        """Append the tensors: dict of str to `Quantized` (on the lattice) or to flat float32 array, in the order of the layout."""
        bits, results = options["bits"], [value for value in tensors.values() if isinstance(value, Quantized)]
        if not results:
            raise InputError("no tensor is on the lattice; expected at least one")
        for name, value in tensors.items():
            if isinstance(value, Quantized):
                found = {"bits": value.bits, "seed": value.seed, "name": value.name, "blocks": len(value.sizes)}
                expected = {"bits": bits, "seed": options["seed"], "name": name, "blocks": 1}
                if found != expected:
                    raise InputError(f"tensor {name!r} was quantized with {found}; expected {expected}")
            writer.bits(isinstance(value, Quantized), 1)
        writer.align()
        for result in results:
            writer.write(result.scales.astype("<f4").tobytes())
        models = []
        for stage, (table, _) in enumerate(_STAGES[bits]):
            shells = _shells(table)
            counts = sum(np.bincount(shells.shell[result.codes[stage].ravel()], minlength=len(shells.sizes)) for result in results)
            for count in counts[:-1].tolist():
                writer.varint(count)
            models.append(_shell_model(counts))
        encoder = constriction.stream.queue.RangeEncoder()
        for result in results:
            for codes, model, (table, _) in zip(result.codes, models, _STAGES[bits], strict=True):
                _encode(encoder, codes.ravel(), model, _shells(table))
        words = encoder.get_compressed().astype("<u4")
        writer.varint(len(words))
        writer.write(words.tobytes())
        rest = {name: value for name, value in tensors.items() if not isinstance(value, Quantized)}
        if rest:
            self.others.write(writer, rest, options)

    def read(self, reader, layout, options):
        """Flat float32 arrays of the tensors of `layout` (list of (name, shape))."""
        bits = options["bits"]
        reader.section("scales")
        on_lattice = [reader.bits(1) for _ in layout]
        reader.align()
        entries = [entry for entry, flag in zip(layout, on_lattice, strict=True) if flag]
        if not entries:
            raise reader.error("corrupt message (no tensor is on the lattice)")
        for name, shape in entries:
            try:
                check_shape(shape, f"tensor {name!r}")
            except InputError as error:
                raise reader.error(f"corrupt message ({error})") from None
        scales = np.frombuffer(reader.take(4 * len(entries)), "<f4").astype(np.float32)
        if not ((scales >= 0) & (scales <= _MAX_SCALE)).all():
            raise reader.error(f"corrupt message (a scale is not a number from 0 to {_MAX_SCALE:g})")
        reader.section("codebooks")
        sizes = [math.prod(shape) // _DIMENSION for _, shape in entries]
        counts = [self._read_counts(reader, sum(sizes), _shells(table)) for table, _ in _STAGES[bits]]
        models = [_shell_model(count) for count in counts]
        reader.section("codes")
        words = np.frombuffer(reader.take(4 * reader.varint()), "<u4").astype(np.uint32)
        decoder, encoder = constriction.stream.queue.RangeDecoder(words), constriction.stream.queue.RangeEncoder()
        left = [count.copy() for count in counts]
        results = []
        for (name, (m, n)), size, scale in zip(entries, sizes, scales, strict=True):
            codes = []
            for stage, (table, _) in enumerate(_STAGES[bits]):
                shells = _shells(table)
                try:
                    found = _decode(decoder, size, models[stage], shells)
                except AssertionError as error:
                    raise reader.error(f"corrupt message ({error})") from None
                _encode(encoder, found, models[stage], shells)
                left[stage] -= np.bincount(shells.shell[found], minlength=len(shells.sizes))
                codes.append(_narrow(found, table).reshape(m, n // _DIMENSION))
            results.append(Quantized(bits, options["seed"], name, tuple(codes), np.array([scale]), (m,)))
        if any(stage.any() for stage in left):
            raise reader.error("corrupt message (the decoded points do not have the stated counts)")
        if not np.array_equal(encoder.get_compressed(), words):  # the decoder alone cannot tell that words are left over
            raise reader.error("corrupt message (the coded points are not what their encoder writes)")
        rest = [entry for entry, flag in zip(layout, on_lattice, strict=True) if not flag]
        others = iter(self.others.read(reader, rest, options) if rest else [])
        points = iter(results)
        return [reconstruct(next(points)).ravel() if flag else next(others) for flag in on_lattice]

    def _read_counts(self, reader, total, shells):
        counts = [reader.varint() for _ in shells.sizes[:-1]]
        if sum(counts) > total:
            raise reader.error(f"corrupt message ({sum(counts)} points in shells; expected at most {total})")
        return np.array([*counts, total - sum(counts)], np.int64)


def _encode(encoder, codes, model, shells):
    shell = shells.shell[codes].astype(np.int32)
    encoder.encode(shell, model)
    sizes = shells.sizes[shell]
    several = sizes > 1
    if several.any():
        places = shells.place[codes][several].astype(np.int32)
        encoder.encode(places, constriction.stream.model.Uniform(), sizes[several].astype(np.int32))


def _decode(decoder, size, model, shells):
    shell = decoder.decode(model, size)
    sizes = shells.sizes[shell]
    several = sizes > 1
    place = np.zeros(size, np.int64)
    if several.any():
        place[several] = decoder.decode(constriction.stream.model.Uniform(), sizes[several].astype(np.int32))
    return shells.codes[shells.starts[shell] + place]
