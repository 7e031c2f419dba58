"""Structured replacements of a GPT's dense matrices: LoRA, Kronecker products, Monarch matrices (paper,
section 5.1 and appendix B.1).

Each module stands for a matrix W of shape (a, b), a outputs and b inputs, and computes x W^T + bias without
forming W (LoRA's W0 is dense and frozen). Trainable tensors are parameters; tensors that stay as drawn from
the seed are buffers outside the state dict, so that neither a message nor a file holds them. A new module
holds NaN until `initialize` or a decoded message gives it values.

=========  ===========================  ================================  ==========================
kind       W                            trainable tensors                 trainable values, no bias
=========  ===========================  ================================  ==========================
LoRA       W0 + (scale / rank) b a      a (rank, b), b (a, rank)          rank (a + b)
Kronecker  a (x) b                      a (a1, b1), b (a2, b2)            a1 b1 + a2 b2
Monarch    Q S P F                      F (k, q, p), S (k, s, q)          min(a, b) (a + b) / k
=========  ===========================  ================================  ==========================
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tokenbounds.errors import InputError


class _Structured(nn.Module):
    """Base of the three structures: a check of the shape, and parameters that start as NaN."""

    def __init__(self, in_features, out_features, bias, structure, where, **shapes):
        _check(structure, in_features, out_features, where)
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(_nan(*shape)))
        self.register_parameter("bias", nn.Parameter(_nan(out_features)) if bias else None)

    def initialize(self, draw, std):
        """Set every tensor to its value before training; a bias is 0.

        Parameters
        ----------
        draw : callable (name, shape) -> torch.Tensor
            Function that draws standard normal numbers for the tensor called `name` in this module.
        std : float
            Standard deviation that the entries of a dense matrix would have here.
        """
        with torch.no_grad():
            for name, scale in self._deviations(std).items():
                tensor = getattr(self, name)
                tensor.copy_(draw(name, tuple(tensor.shape)) * scale)
            if self.bias is not None:
                self.bias.zero_()

    def _biased(self, y):
        """Add the bias to `y` (a fresh tensor) in place.

        Under autocast the sum thus keeps the type of `y`, as in `torch.nn.Linear`.
        """
        return y if self.bias is None else y.add_(self.bias)


class LoRALinear(_Structured):
    """W = W0 + (scale / rank) b a with `frozen` W0 (a, b), where `a` (rank, b) and `b` (a, rank) train.

    The structure is that of Hu et al. 2021.

    Parameters
    ----------
    in_features, out_features : int
        b and a.
    bias : bool
        Whether there is a bias vector.
    structure : tokenbounds.config.schema.LoRA
        Rank, scale and dropout; dropout acts on the input of `a`, in training mode only.
    where : str
        Name of the module, for errors.

    Raises
    ------
    InputError
        The rank is above min(a, b).
    """

    def __init__(self, in_features, out_features, bias, structure, where):
        rank = structure.rank
        super().__init__(
            in_features, out_features, bias, structure, where, a=(rank, in_features), b=(out_features, rank)
        )
        self.scale, self.dropout = structure.scale / rank, structure.dropout
        self.register_buffer("frozen", _nan(out_features, in_features), persistent=False)

    def forward(self, x):
        """Compute outputs (..., a) of `x` (..., b)."""
        inner = F.linear(F.dropout(x, self.dropout, self.training), self.a)  # (..., rank)
        return F.linear(x, self.frozen, self.bias) + F.linear(self.scale * inner, self.b)

    def dense(self):
        """Compute the matrix W (a, b)."""
        return self.frozen + self.scale * self.b @ self.a

    def rows(self, ids):
        """Compute the rows (..., b) of W at `ids` (...)."""
        return F.embedding(ids, self.frozen) + self.scale * F.embedding(ids, self.b) @ self.a

    def initialize(self, draw, std):
        """Set every tensor as in the other structures, but `b` to 0, so that training starts at W0."""
        super().initialize(draw, std)
        with torch.no_grad():
            self.b.zero_()

    def _deviations(self, std):
        # `a` has the variance that it has in loralib, where it is uniform on +-1/sqrt(in_features).
        return {"frozen": std, "a": 1 / math.sqrt(3 * self.in_features)}


class KroneckerLinear(_Structured):
    """W = a (x) b, the Kronecker product of `a` (a1, b1) and `b` (a2, b2): W[i a2 + k, j b2 + l] = a[i, j]
    b[k, l].

    Parameters
    ----------
    in_features, out_features : int
        b = b1 b2 and a = a1 a2.
    bias : bool
        Whether there is a bias vector.
    structure : tokenbounds.config.schema.Kronecker
        a1 (`out_factor`) and b1 (`in_factor`).
    where : str
        Name of the module, for errors.

    Raises
    ------
    InputError
        a1 does not divide a, or b1 does not divide b.
    """

    def __init__(self, in_features, out_features, bias, structure, where):
        a1, b1 = structure.out_factor, structure.in_factor
        a2, b2 = out_features // a1, in_features // b1
        super().__init__(in_features, out_features, bias, structure, where, a=(a1, b1), b=(a2, b2))
        self.b_first = b1 * a2 * (b2 + a1) <= a1 * b2 * (b1 + a2)  # multiplications per row of x, either way

    def forward(self, x):
        """Compute outputs (..., a) of `x` (..., b)."""
        (a1, b1), (a2, b2) = self.a.shape, self.b.shape
        rows = x.numel() // self.in_features
        # With the rows of x between the two axes, each product is one large matrix product, which is faster
        # than a product per row.
        blocks = x.reshape(rows, b1, b2).transpose(0, 1)
        if self.b_first:
            inner = blocks.reshape(b1 * rows, b2) @ self.b.t()
            y = self.a @ inner.view(b1, rows * a2)
        else:
            inner = self.a @ blocks.reshape(b1, rows * b2)
            y = inner.view(a1 * rows, b2) @ self.b.t()
        y = y.view(a1, rows, a2).transpose(0, 1)
        return self._biased(y.reshape(*x.shape[:-1], self.out_features))

    def dense(self):
        """Compute the matrix W (a, b)."""
        return torch.kron(self.a, self.b)

    def rows(self, ids):
        """Compute the rows (..., b) of W at `ids` (...)."""
        a2 = len(self.b)
        outer, inner = F.embedding(ids // a2, self.a), F.embedding(ids % a2, self.b)
        return (outer.unsqueeze(-1) * inner.unsqueeze(-2)).flatten(-2)

    def _deviations(self, std):
        return {"a": math.sqrt(std), "b": math.sqrt(std)}


class MonarchLinear(_Structured):
    """W = Q S P F with block-diagonal F and S, and permutations P and Q [Dao et al. 2022].

    F has the blocks `first` (k, q, p) and S the blocks `second` (k, s, q), with p = b / k inputs and s = a /
    k outputs per block, and q = min(p, s)::

        inputs (b)   F: k blocks   middle (k q)   P      S: k blocks    Q: interleave   outputs (a)
        [p values] -> [q values]                      -> [s values] ->
        [p values] -> [q values]        ->  stride ->    [s values] ->       ->
        [p values] -> [q values]                      -> [s values] ->

    The stride permutation P passes element i of the middle values to block i mod k of S, as its element i //
    k. Q interleaves the outputs in the same manner: output j k + c is output j of block c. Every run of k
    outputs thus depends on all middle values: neither an attention head nor the frequent tokens, whose ids
    are neighbours, share a single block.

    Parameters
    ----------
    in_features, out_features : int
        b and a.
    bias : bool
        Whether there is a bias vector.
    structure : tokenbounds.config.schema.Monarch
        k (`blocks`).
    where : str
        Name of the module, for errors.

    Raises
    ------
    InputError
        k does not divide a or b.
    """

    def __init__(self, in_features, out_features, bias, structure, where):
        k = structure.blocks
        p, s = in_features // k, out_features // k
        q = min(p, s)
        super().__init__(in_features, out_features, bias, structure, where, first=(k, q, p), second=(k, s, q))

    def forward(self, x):
        """Compute outputs (..., a) of `x` (..., b)."""
        k, q, p = self.first.shape
        rows = x.numel() // self.in_features
        # With the rows of x last, the stride permutation is a view that the second product reads without a
        # copy.
        middle = torch.bmm(self.first, x.reshape(rows, k, p).permute(1, 2, 0))  # (k, q, rows)
        middle = middle.view(q, k, rows).transpose(0, 1)  # (k, q, rows), permuted
        y = torch.bmm(middle.mT, self.second.mT).permute(1, 2, 0)  # (rows, s, k)
        return self._biased(y.reshape(*x.shape[:-1], self.out_features))

    def dense(self):
        """Compute the matrix W (a, b)."""
        k, q, _ = self.first.shape
        inner = torch.block_diag(*self.first).view(q, k, -1).transpose(0, 1).reshape(k * q, -1)
        outer = torch.block_diag(*self.second).view(k, -1, k * q).transpose(0, 1).reshape(-1, k * q)
        return outer @ inner

    def _deviations(self, std):
        _, q, p = self.first.shape
        # Inputs of variance 1 then give middle values of variance 1 and outputs of variance in_features
        # std^2, as with a dense matrix.
        return {"first": 1 / math.sqrt(p), "second": std * math.sqrt(self.in_features / q)}


class Parallel(nn.Module):
    """Queries, keys and values from one structured module each, concatenated in this order.

    Parameters
    ----------
    width : int
        Inputs, and outputs of each module.
    bias : bool
        Whether the modules have bias vectors.
    structure : tokenbounds.config.schema.LoRA, Kronecker or Monarch
    where : str
        Name of the module, for errors.
    """

    def __init__(self, width, bias, structure, where):
        super().__init__()
        self.q, self.k, self.v = (
            structured_linear(width, width, bias, structure, f"{where}.{name}") for name in "qkv"
        )

    def forward(self, x):
        """Compute outputs (..., 3 width) of `x` (..., width)."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


class FrozenEmbedding(nn.Module):
    """A table of `vocab_size` vectors of `width` that keep the values drawn from the seed."""

    def __init__(self, vocab_size, width):
        super().__init__()
        self.register_buffer("frozen", _nan(vocab_size, width), persistent=False)

    def initialize(self, draw, std):
        """Draw the table; `draw` and `std` as for the structured modules."""
        self.frozen.copy_(draw("frozen", tuple(self.frozen.shape)) * std)

    def forward(self, ids):
        """Look up the vectors (..., width) of `ids` (...)."""
        return F.embedding(ids, self.frozen)


_MODULES = {"lora": LoRALinear, "kronecker": KroneckerLinear, "monarch": MonarchLinear}


def structured_linear(in_features, out_features, bias, structure, where):
    """Build the module that replaces a dense layer; arguments and errors as for the modules."""
    return _MODULES[structure.kind](in_features, out_features, bias, structure, where)


def trainable_count(structure, in_features, out_features, bias):
    """Count the trainable values of a structured layer in closed form.

    With a outputs and b inputs: LoRA r (a + b); Kronecker a1 b1 + a2 b2; Monarch min(a, b) (a + b) / k; each
    plus a for a bias.

    Parameters
    ----------
    structure : tokenbounds.config.schema.LoRA, Kronecker or Monarch
    in_features, out_features : int
        b and a.
    bias : bool
        Whether there is a trainable bias vector.

    Returns
    -------
    int

    Raises
    ------
    InputError
        The structure does not fit the shape.
    """
    _check(structure, in_features, out_features, "trainable_count")
    count = out_features if bias else 0
    if structure.kind == "lora":
        return count + structure.rank * (in_features + out_features)
    if structure.kind == "kronecker":
        size = structure.out_factor * structure.in_factor
        return count + size + in_features * out_features // size
    return count + min(in_features, out_features) * (in_features + out_features) // structure.blocks


def structure_gpt(gpt, structure):
    """Replace, in place, the dense matrices of a new `GPT` by structured ones (paper, appendix B.1).

    ==============================  ==================================================================
    ``gpt.vocabulary``              The head: width inputs, no bias; its outputs are the vocabulary, padded
                                    to a multiple of ``structure.vocab_multiple``
    ``gpt.embedding``               None: the rows of the head are also the input embedding; under Monarch a
                                    `FrozenEmbedding`
    ``qkv`` of each attention       A `Parallel`
    ``output`` of each attention    A structured module
    both layers of each MLP         Structured modules with ``layers: all``. With ``layers: attention`` they
                                    stay dense; they train, but under LoRA their matrices become buffers
    learned positions               Buffers
    biases                          Buffers (0) without ``train_biases``
    weights of norms                Buffers (1) without ``train_norms``
    ==============================  ==================================================================

    Buffers that no module here initializes (``positions.weight``, LoRA's dense ``mlp.*.weight``) keep the
    name and shape that they had as parameters, and hold NaN until the caller draws them.

    Parameters
    ----------
    gpt : tokenbounds.models.gpt.GPT
        A model without weights, also on the meta device.
    structure : tokenbounds.config.schema.LoRA, Kronecker or Monarch

    Raises
    ------
    InputError
        The structure does not fit a layer; the error names the layer.
    """
    width, bias = gpt.architecture.width, gpt.architecture.bias
    padded = math.ceil(gpt.vocab_size / structure.vocab_multiple) * structure.vocab_multiple
    gpt.vocabulary = structured_linear(
        width, padded, False, structure, f"vocabulary ({gpt.vocab_size} tokens padded to {padded})"
    )
    gpt.embedding = FrozenEmbedding(gpt.vocab_size, width) if structure.kind == "monarch" else None
    if gpt.positions is not None:
        freeze(gpt.positions, "weight")
    for i, block in enumerate(gpt.blocks):
        place = f"blocks.{i}"
        block.attention.qkv = Parallel(width, bias, structure, f"{place}.attention.qkv")
        block.attention.output = structured_linear(width, width, bias, structure, f"{place}.attention.output")
        for name in ("input", "output"):
            dense = getattr(block.mlp, name)
            if structure.layers == "all":
                layer = structured_linear(
                    dense.in_features, dense.out_features, bias, structure, f"{place}.mlp.{name}"
                )
                setattr(block.mlp, name, layer)
            elif structure.kind == "lora":
                freeze(dense, "weight")
    for module in gpt.modules():
        if isinstance(module, nn.LayerNorm) and not structure.train_norms:
            freeze(module, "weight").fill_(1.0)
        if getattr(module, "bias", None) is not None and not structure.train_biases:
            freeze(module, "bias").zero_()


def freeze(module, name):
    """Turn the parameter `name` of `module` into a buffer of this name outside the state dict; return it."""
    tensor = getattr(module, name).detach()
    delattr(module, name)
    module.register_buffer(name, tensor, persistent=False)
    return tensor


def _nan(*shape):
    return torch.full(shape, math.nan, dtype=torch.float32)


def _check(structure, in_features, out_features, where):
    """Raise an `InputError` if a structure does not fit a layer."""
    shape = f"{where}: out {out_features}, in {in_features}"
    if structure.kind == "lora":
        highest = min(in_features, out_features)
        if structure.rank > highest:
            raise InputError(f"{shape}: structure.rank is {structure.rank}, expected at most {highest}")
        return
    if structure.kind == "kronecker":
        divisors = [
            ("out_factor", structure.out_factor, out_features),
            ("in_factor", structure.in_factor, in_features),
        ]
    else:
        divisors = [("blocks", structure.blocks, out_features), ("blocks", structure.blocks, in_features)]
    for key, value, features in divisors:
        if features % value:
            raise InputError(f"{shape}: structure.{key} is {value}, expected a divisor of {features}")
