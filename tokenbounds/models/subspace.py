"""Models in a random linear subspace of their parameters: theta = theta0 + P w, where only w is trained and
coded [Li et al. 2018].

theta0 (D,) are the initial values of all trainable parameters, and P (D, d) is drawn from a seed, so a
message holds w (d,) alone. P is a product of small factors [Lotfi et al. 2022] and is never built.
"""

import copy
import math
import zlib

import numpy as np
import scipy.linalg
import torch
from torch import nn
from torch.func import functional_call

from tokenbounds.errors import InputError
from tokenbounds.randomness import normals, random_bits

_GRID_BITS = 8  # below the power of two at an entry's standard deviation


class Projector(nn.Module):
    """The projection P (D, d): the seeded permutation of the rows of a block-diagonal matrix.

    ::

                d1^2         d - d1^2
            [ Q1 (x) Q2         0     ]   D1^2        (x): Kronecker product
            [     0             R     ]   D - D1^2

    Q1 and Q2 (D1, d1) and R have orthonormal columns, and so has P, up to the rounding of the factors. d1 is
    floor(sqrt(d)), and D1 is floor(sqrt(D)), or one less if R would otherwise have fewer rows than columns.

    Parameters
    ----------
    dimension : int
        Dimension d of the subspace.
    size : int
        Number D of parameters, below 2^31.
    seed : int
        Seed of the factors and the permutation.

    Raises
    ------
    InputError
        d is not in 1..D, or D is too large.

    Notes
    -----
    D1 = floor(sqrt(D)) - 1 occurs only if d1 < floor(sqrt(D)). R then has at least 2 floor(sqrt(D)) - 1 rows,
    and at most 2 floor(sqrt(D)) - 2 columns. Every entry of w thus has an effect. If d is a square, R has no
    columns and its rows of P are zero: D - D1^2 parameters keep their initial values.

    A factor is the Q of the QR decomposition, with a positive diagonal of R, of a matrix of
    `tokenbounds.randomness.normals`, in float64. LAPACK's results differ in the last bits between machines,
    so each entry is rounded to a multiple of 2^-8 times the least power of two that is not below
    1/sqrt(rows); no column moves by more than 2^-8 of its length. Between OpenBLAS's code for five
    processors, entries of matrices of 300 to 3000 rows differ by 1e-17 to 6e-17 on average. With such
    differences, the rounded factors for D = 1.24e8 and d = 1.5e7 differ between two machines with a
    probability of about 1e-4, which `check` detects.

    The permutation sorts the rows by keys of SHAKE-128, which is the same everywhere.
    """

    def __init__(self, dimension, size, seed):
        super().__init__()
        if not 1 <= dimension <= size < 2**31:
            raise InputError(
                f"subspace of dimension {dimension} for {size} parameters; "
                "expected 1 <= dimension <= parameters < 2^31"
            )
        self.dimension, self.size = dimension, size
        rows, columns = math.isqrt(size), math.isqrt(dimension)
        if size - rows**2 < dimension - columns**2:
            rows -= 1
        shapes = {
            "left": (rows, columns),
            "right": (rows, columns),
            "remainder": (size - rows**2, dimension - columns**2),
        }
        meta = torch.get_default_device().type == "meta"  # only the layout is wanted
        for name, shape in shapes.items():
            factor = torch.empty(shape) if meta else torch.from_numpy(_orthonormal(shape, seed, name))
            self.register_buffer(name, factor, persistent=False)
        permutation = (
            torch.empty(size, dtype=torch.int32) if meta else torch.from_numpy(_permutation(size, seed))
        )
        self.register_buffer("permutation", permutation, persistent=False)

    def forward(self, w):
        """Compute P w (D,) of w (d,), in the type of w even under autocast.

        Row i of P is row ``permutation[i]`` of the block-diagonal matrix.
        """
        left, right, remainder = (factor.to(w.dtype) for factor in (self.left, self.right, self.remainder))
        columns = left.shape[1]
        with torch.autocast(w.device.type, enabled=False):
            square = w[: columns**2].view(columns, columns)
            product = left @ (square @ right.T)  # (Q1 (x) Q2) vec(W) = vec(Q1 W Q2^T), rows first
            return torch.cat([product.flatten(), remainder @ w[columns**2 :]]).index_select(
                0, self.permutation
            )

    def check(self):
        """Compute the CRC32 (int) of the factors and the permutation.

        A decoder compares it with its own, and so never uses another P.
        """
        crc = 0
        for tensor, kind in (
            (self.left, "<f4"),
            (self.right, "<f4"),
            (self.remainder, "<f4"),
            (self.permutation, "<i4"),
        ):
            crc = zlib.crc32(tensor.cpu().numpy().astype(kind, order="C", copy=False), crc)
        return crc


def _orthonormal(shape, seed, name):
    """Compute the rounded Q (rows, columns), float32, of a Gaussian matrix; see `Projector`."""
    rows, columns = shape
    if not columns:
        return np.zeros(shape, np.float32)
    # In LAPACK's order, so that `qr` overwrites it instead of a copy.
    gaussian = normals(seed, "subspace", name, shape=(columns, rows)).astype(np.float64).T
    q, r = scipy.linalg.qr(gaussian, overwrite_a=True, mode="economic", check_finite=False)
    q *= np.copysign(1.0, np.diag(r))
    step = 2.0 ** -((rows.bit_length() - 1) // 2 + _GRID_BITS)
    q /= step
    np.rint(q, out=q)
    q *= step
    q += 0.0  # -0 becomes 0
    return q.astype(np.float32, order="C")


def _permutation(size, seed):
    """Draw a permutation of 0..size-1, int32: indices sorted by random keys.

    ::

        bits of a key:   random (64 - shift)  |  index (shift)

    Equal random bits are thus ordered by index.
    """
    shift = (size - 1).bit_length()
    keys = np.empty(size, np.uint64)
    for start, bits in random_bits(size, "<u8", seed, "subspace", "permutation"):
        indices = np.arange(start, start + bits.size, dtype=np.uint64)
        keys[start : start + bits.size] = bits >> shift << shift | indices
    keys.sort()  # no two are equal, so every sorting algorithm gives the same
    keys &= (1 << shift) - 1
    return keys.astype(np.int32)


class Subspace(nn.Module):
    """A model whose only parameter is w (d,): the trainable parameters of `inner` are theta0 + P w.

    Parameters
    ----------
    inner : torch.nn.Module
        A model of any family with its initial weights: ``forward(ids, targets)``, ``hidden``, ``head``,
        ``check`` (of its buffers), ``architecture``, ``vocab_size``. It becomes a part of this model: its
        parameters turn into buffers of the same names, and those that do not train keep their values.
    dimension : int
        Dimension d, at most the number D of values in the trainable parameters of `inner`.
    seed : int
        Seed of P; see `Projector`.

    Raises
    ------
    InputError
        As for `Projector`.

    Notes
    -----
    w starts at zero. In training mode, or while gradients are recorded, each call computes P w, in float32.
    In evaluation without gradients, calls go to a copy from `materialize`, which is made anew when w has
    changed.
    """

    def __init__(self, inner, dimension, seed):
        super().__init__()
        self.architecture, self.vocab_size = inner.architecture, inner.vocab_size
        self.longest = getattr(inner, "longest", None)
        shared = {}  # a tied parameter has several names
        for name, parameter in inner.named_parameters(remove_duplicate=False):
            shared.setdefault(parameter, []).append(name)
        self._trainable = {names[0]: names for parameter, names in shared.items() if parameter.requires_grad}
        self._frozen = {names[0]: names for parameter, names in shared.items() if not parameter.requires_grad}
        for parameter, names in shared.items():
            for name in names:
                _replace(inner, name, parameter.detach())
        self.inner = inner
        self._sizes = [inner.get_buffer(name).numel() for name in self._trainable]
        self.projector = Projector(dimension, sum(self._sizes), seed)
        self.w = nn.Parameter(torch.zeros(dimension))
        self._cache = None  # w and the model with theta

    def initialize(self):
        """Set w to 0, which gives theta0, and return the model."""
        with torch.no_grad():
            self.w.zero_()
        return self

    def layout(self):
        """List (name, shape) of the one tensor."""
        return [("w", tuple(self.w.shape))]

    def check(self):
        """Compute the CRC32 (int) of all drawn values that are not in the message.

        These are P and, by the `check` of the inner model, theta0 and the frozen tensors.
        """
        return zlib.crc32(self.projector.check().to_bytes(4, "little"), self.inner.check())

    def forward(self, ids, targets):
        """Compute the mean loss in nats per token of the model with theta."""
        if self._evaluates():
            return self._evaluated()(ids, targets)
        return functional_call(self.inner, self._theta(self.w), (ids, targets))

    def hidden(self, ids):
        """Compute states (B, T, W) of the model with theta."""
        return self._call("hidden", ids)

    def head(self, hidden):
        """Compute logits (..., V) of the model with theta."""
        return self._call("head", hidden)

    @torch.inference_mode(False)  # tensors made within could never be part of a gradient
    @torch.no_grad()
    def materialize(self):
        """Copy the inner model with its parameters at theta, in evaluation mode.

        theta is computed in float64 and rounded once. Frozen tensors are shared with this model.
        """
        kept = {id(buffer): buffer for buffer in self.inner.buffers()}  # not copied
        model = copy.deepcopy(self.inner, kept)
        for names, tensors, trains in (
            (self._trainable, self._theta(self.w.double()), True),
            (self._frozen, {name: self.inner.get_buffer(name) for name in self._frozen}, False),
        ):
            for first, every in names.items():
                parameter = nn.Parameter(tensors[first], requires_grad=trains)
                for name in every:
                    _replace(model, name, parameter)
        return model.eval()

    def _theta(self, w):
        """Compute the value at `w` of each trainable tensor, by every name of it, in the type of `w`."""
        changes = self.projector(w).split(self._sizes)
        theta = {}
        for names, change in zip(self._trainable.values(), changes, strict=True):
            start = self.inner.get_buffer(names[0])
            theta |= dict.fromkeys(names, (start + change.view_as(start)).to(start.dtype))
        return theta

    def _evaluates(self):
        return not (self.training or torch.is_grad_enabled())

    def _evaluated(self):
        # by value: a write through w.data changes neither its version nor its address
        if self._cache is None or not torch.equal(self._cache[0], self.w):
            self._cache = None  # two copies need not fit
            self._cache = self.w.detach().clone(), self.materialize()
        return self._cache[1]

    def _call(self, method, argument):
        if self._evaluates():
            return getattr(self._evaluated(), method)(argument)
        theta = {f"inner.{name}": value for name, value in self._theta(self.w).items()}
        return functional_call(_Method(self.inner, method), theta, (argument,))

    def _apply(self, fn, recurse=True):
        self._cache = None  # another device or type
        return super()._apply(fn, recurse)


class _Method(nn.Module):
    """A module whose ``forward``, which `functional_call` needs, is a method of another module."""

    def __init__(self, inner, method):
        super().__init__()
        self.inner, self.method = inner, method

    def forward(self, argument):
        return getattr(self.inner, self.method)(argument)


def _replace(model, name, tensor):
    """Replace the parameter or buffer called `name` by another parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    delattr(module, leaf)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor, persistent=False)
