"""Importance of the tensors of a model: second moments of the inputs of its linear layers, and of the
gradients behind them, on training tokens.

With targets drawn from the model's own predictions, the mean square of a gradient is the curvature of the
loss (its Fisher information), and gradients of different tokens are uncorrelated: the square of a batch's
gradient is therefore, on average, the sum of its tokens'.

========================  ==================================  ==========================================
tensor                    its columns matter by               its rows matter by
========================  ==================================  ==========================================
weight of a linear layer  second moments of the inputs        mean squared gradients of the outputs
head                      second moments of the last states   mean of p (1 - p) of each token
embedding                 second moments of the gradients     frequency of each token
head that is tied to it   both, weighted                      both, weighted
any other                 mean squared gradients of columns   mean squared gradients of rows
========================  ==================================  ==========================================
"""

import contextlib
import dataclasses

import torch
from torch import nn

from tokenbounds.codecs.sequential.layers import find_layers
from tokenbounds.codecs.sequential.matrix import sides
from tokenbounds.errors import InputError
from tokenbounds.io.progress import Steps

GROUP_BYTES = 4 << 30  # of second moments in memory at a time
_RARE = 1e-3  # share of the text that is spread over all tokens, those that never occur among them
_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Importance:
    """Importance of a tensor's rows and columns for the loss.

    Attributes
    ----------
    rows : Tensor, shape (rows,)
        Weight g_i of each row.
    columns : Tensor, shape (columns, columns) or (columns,)
        Second moments H, or their diagonal where no others are known.
    transposed : bool
        Whether the tensor is (inputs, outputs): its matrix is then to be transposed first.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    transposed: bool = False


def measure(model, batches, *, with_gradients, frequency, seed, group_bytes=GROUP_BYTES):
    """Measure what matters in each tensor of a model, linear layers in groups.

    The second moments of one group at a time are in memory, if the caller keeps none. The batches are gone
    through once for each group, and once where all layers are in one.

    Parameters
    ----------
    model : torch.nn.Module
        Of some family, in evaluation mode; its parameters' ``requires_grad`` is changed.
    batches : sequence of Tensor of int64, shape (B, T)
        Token ids.
    with_gradients : int
        Number of batches, the first ones, that gradients are measured on.
    frequency : Tensor, shape (V,)
        Share of each token in the text.
    seed : int
        Seed of the targets that are drawn.
    group_bytes : int
        Most bytes of second moments in a group of more than one layer.

    Yields
    ------
    dict of str to Importance
        Of the tensors of a group, in the order of the model's layout; the first holds all that are no weights
        of linear layers too. Layers that read one input share one tensor of second moments.

    Raises
    ------
    InputError
        Inputs or gradients that are not finite; no tokens.
    """
    if not batches:
        raise InputError("no tokens to calibrate on; expected at least one sequence")
    sums = _Sums(model)
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed % 2**63)
    groups = sums.layers.groups(group_bytes)
    for number, group in enumerate(groups):
        name = "second moments" + (f", group {number + 1} of {len(groups)}" if len(groups) > 1 else "")
        with Steps(name, len(batches)) as progress, sums.collecting(group, everything=not number):
            for place, ids in enumerate(batches):
                if number:
                    sums.inputs_of(ids)
                else:
                    sums.all_of(ids, place < with_gradients, generator)
                progress.show()
        yield sums.importance(group, None if number else frequency)


class _Reached(Exception):
    """The last layer of a group has its input: the rest of the prediction is not needed."""


class _Sums:
    """Sums over tokens, collected by hooks on the layers of a model."""

    def __init__(self, model):
        self.model, self.layers = model, find_layers(model)
        self.gradients, self.ids = False, torch.zeros(0)
        self.inputs, self.outputs = {}, {}
        self.embedded, self.counts, self.squares = {}, {}, {}
        self.tokens = self.gradient_tokens = 0
        self.head_inputs, self.head_rows = {}, torch.zeros(())
        hooked = {*self.layers.linear, *self.layers.embeddings, self.layers.head}
        self.others = {name: p for name, p in model.named_parameters() if name not in hooked}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.others)

    @contextlib.contextmanager
    def collecting(self, group, *, everything):
        """Collect the inputs of a group of layers, within, and all other sums if asked for."""
        layers, handles = self.layers, []
        try:
            for name in group:
                last = not everything and name == group[-1] and layers.used_once
                hook = self._input_hook(name, last)
                handles.append(layers.linear[name].register_forward_pre_hook(hook))
            for name, module in layers.linear.items() if everything else ():
                handles.append(module.register_forward_hook(self._output_hook(name)))
            for name, module in layers.embeddings.items() if everything else ():
                handles.append(module.register_forward_hook(self._embedding_hook(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def all_of(self, ids, gradients, generator):
        """Take all sums of a batch, with or without those of gradients."""
        self.ids, self.gradients = ids, gradients
        self.tokens += ids.numel()
        with torch.set_grad_enabled(gradients):
            hidden = self.model.hidden(ids)
            if self.layers.head is not None:
                _add_products(self.head_inputs, self.layers.head, hidden)
            if gradients:
                self._backward(self.model.head(hidden), generator)

    def inputs_of(self, ids):
        """Take the inputs of a batch."""
        with torch.no_grad(), contextlib.suppress(_Reached):
            self.model.hidden(ids)

    def _input_hook(self, name, last):
        def hook(_, inputs):
            _add_products(self.inputs, name, inputs[0])
            if last:
                raise _Reached

        return hook

    def _output_hook(self, name):
        def hook(_, __, output):
            if output.requires_grad:
                output.register_hook(lambda gradient: _add(self.outputs, name, _squares(gradient)))

        return hook

    def _embedding_hook(self, name):
        def hook(module, inputs, output):
            if not self.gradients:
                return output
            if name != self.layers.head and not _is_same_ids(inputs[0], self.ids):
                counts = torch.bincount(inputs[0].flatten(), minlength=module.num_embeddings)
                # positions may be looked up once for all sequences
                _add(self.counts, name, counts * (self.ids.numel() / inputs[0].numel()))
            output = output.detach().requires_grad_(True)
            output.register_hook(lambda gradient: _add_products(self.embedded, name, gradient))
            return output

        return hook

    def _backward(self, logits, generator):
        """Draw targets from the predictions, and take the gradients of their loss."""
        logits = logits.flatten(0, -2)
        shares = torch.softmax(logits.detach(), -1)
        if not shares.isfinite().all():
            raise InputError("predictions on the calibration tokens are not finite; expected numbers")
        targets = torch.multinomial(shares, 1, generator=generator)[:, 0]
        self.head_rows = self.head_rows.to(shares.device) + _spread(shares)
        nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
        for name, parameter in self.others.items():
            if parameter.grad is not None:
                _add(self.squares, name, parameter.grad.double() ** 2)
                parameter.grad = None
        self.gradient_tokens += len(logits)

    def importance(self, group, frequency):
        """Return the `Importance` of each tensor whose inputs are those of a group, whose sums are forgotten;
        given the frequency of tokens, also that of the tensors that are no weights of linear layers."""
        found, layers = {}, self.layers
        # one tensor for all that share it, whose feedback is computed once
        moments = {name: self.inputs.pop(name).div_(self.tokens) for name in group}
        for name, parameter in self.model.named_parameters():
            if name in layers.linear:
                if layers.source[name] not in moments:
                    continue
                conv = not isinstance(layers.linear[name], nn.Linear)
                columns = moments[layers.source[name]]
                found[name] = Importance(self._mean(self.outputs.get(name, 0.0)), columns, conv)
            elif frequency is None:
                continue
            elif name == layers.head or name in layers.embeddings:
                found[name] = self._of_vocabulary(name, len(parameter), frequency)
            else:
                squares = torch.as_tensor(self._mean(self.squares.get(name, 0.0))).expand(parameter.shape)
                squares = squares.reshape(sides(parameter.shape))
                size = squares.mean().clamp_min(_TINY)
                found[name] = Importance(squares.mean(1), squares.mean(0) / size)
            for part in (found[name].rows, found[name].columns):
                if not part.isfinite().all():
                    raise InputError(f"tensor {name!r}: its calibration is not finite; expected numbers")
        return found

    def _mean(self, total):
        return torch.as_tensor(total, dtype=torch.float64) / max(self.gradient_tokens, 1)

    def _of_vocabulary(self, name, count, frequency):
        """Weigh the uses of an embedding: as the head, and as the input."""
        uses, device = [], self._mean(self.head_rows).device
        often = torch.zeros(count, dtype=torch.float64, device=device)
        if name in self.counts:
            often += self._mean(self.counts[name])
        else:
            often[: len(frequency)] = frequency.to(often)
        if name == self.layers.head:
            rows = often / 2  # what a few thousand predictions do not show
            rows[: len(self.head_rows)] = torch.maximum(
                rows[: len(self.head_rows)], self._mean(self.head_rows)
            )
            uses.append((rows, self.head_inputs[name] / self.tokens))
        if name in self.embedded:
            uses.append((often, self._mean(self.embedded[name])))
        uses = [(rows + _RARE / count, part) for rows, part in uses]
        columns = torch.stack([rows.mean() * part for rows, part in uses]).sum(0)
        size = columns.diagonal().mean().clamp_min(_TINY)
        shares = [rows * (part.diagonal().mean() / size) for rows, part in uses]
        return Importance(torch.stack(shares).sum(0), columns)


def _is_same_ids(a, b):
    return a.shape == b.shape and torch.equal(a, b)


def _add_products(sums, name, x):
    """Add the sum of x x^T over tokens, in float64; in place, as those of a wide layer take a gigabyte."""
    x = x.detach().flatten(0, -2)
    products = x.T @ x
    sums[name] = sums[name].add_(products) if name in sums else products.double()


def _spread(shares):
    """Sum p (1 - p) over tokens, without a copy of all shares."""
    return (shares.sum(0) - torch.linalg.vector_norm(shares, dim=0) ** 2).clamp_min(0).double()


def _squares(gradient):
    return (gradient.flatten(0, -2).double() ** 2).sum(0)


def _add(sums, name, value):
    sums[name] = sums[name] + value if name in sums else value
