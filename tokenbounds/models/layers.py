"""Parts that the model families share: the training loss, and layers without initial weights.

The layers start as NaN, so that building a model draws nothing from torch's global generator.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# Rows of logits at a time in the training loss. On a CPU the loss of all rows at once takes twice as long.
_LOSS_ROWS_CPU = 256
# Most rows whose logits are in memory at a time, in several copies: 8192 of GPT-2's vocabulary take 6 GB.
_LOSS_ROWS = 8192


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
    """Compute the mean loss in nats per token, in memory that the number of tokens does not raise.

    Beyond 8192 rows, logits are not kept for the backward pass but computed again, chunk by chunk: the same
    values and gradients, for the time of one more product with the head.

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

    def loss(hidden, targets):
        return F.cross_entropy(logits(hidden).float(), targets, reduction="sum")

    rows = _LOSS_ROWS_CPU if hidden.device.type == "cpu" else _LOSS_ROWS
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    if len(hidden) <= _LOSS_ROWS or not torch.is_grad_enabled():
        losses = [loss(*chunk) for chunk in chunks]
    else:
        losses = [checkpoint(loss, *chunk, use_reentrant=False) for chunk in chunks]
    return sum(losses) / len(targets)
