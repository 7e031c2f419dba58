"""What the model families share: layers without weights, which draw nothing from torch's global generator, and the training loss."""

import math

import torch.nn.functional as F
from torch import nn

_LOSS_ROWS = 256  # rows of logits at a time in the training loss on a CPU: the loss of all rows at once takes twice as long


class Linear(nn.Linear):
    """`torch.nn.Linear` that draws nothing from the global generator; its weights come from a file or from `GPT.initialize`."""

    def reset_parameters(self):
        fill_nan(self)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` likewise."""

    def reset_parameters(self):
        fill_nan(self)


def fill_nan(module):
    """A model used before it has weights then predicts NaN, which every consumer refuses, and not arbitrary numbers."""
    for parameter in module.parameters(recurse=False):
        nn.init.constant_(parameter, math.nan)


def mean_loss_nats(logits, hidden, targets):
    """Mean loss in nats per token of predicting `targets` (B, T) from states `hidden` (B, T, W); `logits` makes (..., V) of (..., W)."""
    hidden, targets = hidden.flatten(0, 1), targets.flatten()  # (B T, W), (B T)
    rows = _LOSS_ROWS if hidden.device.type == "cpu" else len(hidden)
    losses = [F.cross_entropy(logits(h).float(), t, reduction="sum") for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)]
    return sum(losses) / len(targets)
