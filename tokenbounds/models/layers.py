"""Layers without weights: nothing is drawn from torch's global generator."""

import math

from torch import nn


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
