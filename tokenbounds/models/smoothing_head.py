"""The smoothing head: a linear layer that predicts how much to smooth each prediction of a model.

A prediction q is smoothed to (1 - alpha) q + alpha / V before its loss is bounded (docs/theory.md).
`tokenbounds.smoothing` trains heads.
"""

import numbers

import torch
from torch import nn

from tokenbounds.errors import InputError


class AlphaHead(nn.Module):
    """Smoothing weights ``alpha = clip(sigmoid(v . [h, H] + b), low, high)`` from final states h and
    entropies H in bits.

    Parameters
    ----------
    width : int
        Width W of the states, or 0 for a head that sees the entropy alone: a much shorter message.
    low, high : float
        Declared range of alpha, 0 < low < high < 1.

    Attributes
    ----------
    weight : torch.nn.Parameter, (W + 1,)
        v; its last component belongs to the entropy. Zero in a new head, as is the bias: alpha = 1/2,
        clipped.
    bias : torch.nn.Parameter, (1,)
    """

    def __init__(self, width, low, high):
        super().__init__()
        if isinstance(width, bool) or not isinstance(width, numbers.Integral) or width < 0:
            raise InputError(f"width is {width!r}; expected a whole number >= 0")
        for name, value in (("low", low), ("high", high)):
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (number and 0 < value <= 1):  # a NaN is refused too
                raise InputError(f"{name} is {value!r}; expected a number in (0, 1]")
        self.low, self.high = float(low), float(high)
        if not self.low < self.high < 1:
            raise InputError(
                f"the range of alpha is {self.low} to {self.high}; "
                "expected the first below the second, and that below 1"
            )
        self.weight = nn.Parameter(torch.zeros(width + 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def layout(self):
        """List (name, shape) of every tensor, in a fixed order."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def forward(self, hidden, entropy_bits):
        """Compute the weights (...) in [low, high], float64, from states (..., W) and entropies (...)."""
        weight = self.weight.double()
        logits = (
            hidden[..., : len(weight) - 1].double() @ weight[:-1]
            + entropy_bits.double() * weight[-1]
            + self.bias.double()
        )
        return torch.sigmoid(logits).clamp(self.low, self.high)
