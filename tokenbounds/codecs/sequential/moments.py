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

import dataclasses

import torch
from torch import nn

from tokenbounds.codecs.sequential.matrix import sides
from tokenbounds.errors import InputError
from tokenbounds.io.progress import Steps

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


def measure(model, batches, count, *, with_gradients, frequency, seed):
    """Measure what matters in each tensor of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Of some family, in evaluation mode; its parameters' ``requires_grad`` is changed.
    batches : iterable of Tensor of int64, shape (B, T)
        Token ids.
    count : int
        Number of batches, for the progress that is shown.
    with_gradients : int
        Number of batches, the first ones, that gradients are measured on.
    frequency : Tensor, shape (V,)
        Share of each token in the text.
    seed : int
        Seed of the targets that are drawn.

    Returns
    -------
    dict of str to Importance
        For every tensor of the model's layout.

    Raises
    ------
    InputError
        Inputs or gradients that are not finite; no tokens.
    """
    sums = _Sums(model)
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed % 2**63)
    done = 0
    try:
        with Steps("second moments", count) as progress:
            for ids in batches:
                sums.start(ids, done < with_gradients)
                with torch.set_grad_enabled(sums.gradients):
                    hidden = model.hidden(ids)
                    sums.states(hidden)
                    if sums.gradients:
                        sums.backward(model.head(hidden), generator)
                done += 1
                progress.show()
    finally:
        sums.remove()
    if not done:
        raise InputError("no tokens to calibrate on; expected at least one sequence")
    return sums.importance(frequency)


class _Sums:
    """Sums over tokens, collected by hooks on the layers of a model."""

    def __init__(self, model):
        self.model, self.gradients, self.ids = model, False, torch.zeros(0)
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        head_weight = getattr(model, "head_weight", None)  # a model in a subspace has none
        self.head = self.names.get(id(head_weight())) if head_weight else None
        self.linear, self.embeddings = self._modules()
        self.inputs, self.outputs, self.same = {}, {}, {}
        self.embedded, self.counts, self.squares = {}, {}, {}
        self.tokens = self.gradient_tokens = 0
        self.head_inputs, self.head_rows = torch.zeros(()), torch.zeros(())
        self._last = (None, None)
        hooked = {*self.linear, *self.embeddings, self.head}
        self.others = {name: p for name, p in model.named_parameters() if name not in hooked}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.others)
        self.handles = []
        for name, module in self.linear.items():
            self.handles.append(module.register_forward_pre_hook(self._input_hook(name)))
            self.handles.append(module.register_forward_hook(self._output_hook(name)))
        for name, module in self.embeddings.items():
            self.handles.append(module.register_forward_hook(self._embedding_hook(name)))

    def _modules(self):
        """Return the linear layers and embeddings that a prediction runs through, by name of their weight."""
        linear, embeddings = {}, {}

        def hook(module, *_):
            name = self.names.get(id(module.weight))
            if name is not None and isinstance(module, nn.Embedding):
                embeddings[name] = module
            elif name not in (None, self.head):
                linear[name] = module

        kinds = [
            module
            for module in self.model.modules()
            if _is_linear(module) or isinstance(module, nn.Embedding)
        ]
        handles = [module.register_forward_hook(hook) for module in kinds]
        try:
            with torch.no_grad():
                ids = torch.zeros(1, 1, dtype=torch.int64, device=next(self.model.parameters()).device)
                self.model.hidden(ids)
        finally:
            for handle in handles:
                handle.remove()
        return linear, embeddings

    def remove(self):
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()

    def start(self, ids, gradients):
        """Begin a batch."""
        self.ids, self.gradients, self._last = ids, gradients, (None, None)
        self.tokens += ids.numel()

    def _input_hook(self, name):
        def hook(_, inputs):
            x = inputs[0].detach()
            if self._last[0] is not None and _is_same(self._last[0], x):  # layers side by side read one input
                self.same[name] = self._last[1]
                return
            self._last = (x, name)
            _add(self.inputs, name, _products(x))

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
            if name != self.head and not _is_same_ids(inputs[0], self.ids):
                counts = torch.bincount(inputs[0].flatten(), minlength=module.num_embeddings)
                # positions may be looked up once for all sequences
                _add(self.counts, name, counts * (self.ids.numel() / inputs[0].numel()))
            output = output.detach().requires_grad_(True)
            output.register_hook(lambda gradient: _add(self.embedded, name, _products(gradient)))
            return output

        return hook

    def states(self, hidden):
        """Take the states before the head."""
        if self.head is not None:
            self.head_inputs = self.head_inputs.to(hidden.device) + _products(hidden)

    def backward(self, logits, generator):
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

    def importance(self, frequency):
        """Return the `Importance` of each tensor."""
        found = {}
        moments = {name: total / self.tokens for name, total in self.inputs.items()}
        for name, parameter in self.model.named_parameters():
            if name in self.linear:
                columns = moments[self.same.get(name, name)]  # one tensor, whose feedback is computed once
                conv = not isinstance(self.linear[name], nn.Linear)
                found[name] = Importance(self._mean(self.outputs.get(name, 0.0)), columns, conv)
            elif name == self.head or name in self.embeddings:
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
        if name == self.head:
            rows = often / 2  # what a few thousand predictions do not show
            rows[: len(self.head_rows)] = torch.maximum(
                rows[: len(self.head_rows)], self._mean(self.head_rows)
            )
            uses.append((rows, self.head_inputs / self.tokens))
        if name in self.embedded:
            uses.append((often, self._mean(self.embedded[name])))
        uses = [(rows + _RARE / count, part) for rows, part in uses]
        columns = torch.stack([rows.mean() * part for rows, part in uses]).sum(0)
        size = columns.diagonal().mean().clamp_min(_TINY)
        shares = [rows * (part.diagonal().mean() / size) for rows, part in uses]
        return Importance(torch.stack(shares).sum(0), columns)


def _is_linear(module):
    # transformers' Conv1D, of GPT-2, holds its weight as (inputs, outputs)
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _is_same(a, b):
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def _is_same_ids(a, b):
    return a.shape == b.shape and torch.equal(a, b)


def _products(x):
    """Sum x x^T over tokens."""
    x = x.detach().flatten(0, -2)
    return (x.T @ x).double()


def _spread(shares):
    """Sum p (1 - p) over tokens, without a copy of all shares."""
    return (shares.sum(0) - torch.linalg.vector_norm(shares, dim=0) ** 2).clamp_min(0).double()


def _squares(gradient):
    return (gradient.flatten(0, -2).double() ** 2).sum(0)


def _add(sums, name, value):
    sums[name] = sums[name] + value if name in sums else value
