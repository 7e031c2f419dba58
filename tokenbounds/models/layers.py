"""Parts that the model families share: the training loss, and layers without initial weights.

The layers start as NaN, so that building a model draws nothing from torch's global generator.
"""

import math

import torch.nn.functional as F
from torch import nn

# Rows of logits at a time in the training loss on a CPU: the loss of all rows at once takes twice as long.
_LOSS_ROWS = 256


class Linear(nn.Linear):
    """`torch.nn.Linear` that starts as NaN; its weights come from a file or from `GPT.initialize`."""

    def reset_parameters(self):
        """Fill the parameters with NaN."""
        fill_nan(self)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` that starts as NaN, as `Linear` does."""

    def reset_parameters(self):
        """Fill the parameters with NaN."""
        fill_nan(self)


def fill_nan(module):
    """Fill a module's own parameters with NaN.

    A model that is used before it has weights then predicts NaN, which every consumer refuses, instead of
    arbitrary numbers.
    """
    for parameter in module.parameters(recurse=False):
        nn.init.constant_(parameter, math.nan)


def mean_loss_nats(logits, hidden, targets):
    """Compute the mean loss in nats per token.

    Parameters
    ----------
    logits : callable
        Maps states (..., W) to logits (..., V).
    hidden : Tensor, shape (B, T, W)
        States.
    targets : Tensor of int64, shape (B, T)
        Tokens to predict from the states.

    Returns
    -------
    Tensor, shape ()
        Float32, with gradients.
    """
    hidden, targets = hidden.flatten(0, 1), targets.flatten()  # (B T, W), (B T)
    rows = _LOSS_ROWS if hidden.device.type == "cpu" else len(hidden)
    losses = [
        F.cross_entropy(logits(h).float(), t, reduction="sum")
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return sum(losses) / len(targets)
