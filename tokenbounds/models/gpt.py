"""A GPT in plain PyTorch: pre-norm decoder, exact (erf) GELU, learned or rotary positions, head tied to the embedding.

Shapes in comments: B sequences, T tokens, W width, H heads, V vocabulary. No vocabulary is padded: the head has exactly the V real tokens.
"""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from tokenbounds.config import Architecture, Section
from tokenbounds.errors import InputError
from tokenbounds.streams import generator

_STD, _STD_WIDTH = 0.02, 768  # of the initial weights: GPT-2's at GPT-2 small's width; at 64, 0.02 itself costs .3 bits after 1e6 tokens
_ROTARY_BASE = 10000.0
_LOSS_ROWS = 256  # rows of logits at a time in the training loss on a CPU: the loss of all rows at once takes twice as long


class GPTConfig(Section):
    """Everything that defines a GPT hypothesis but its weights."""

    family: Literal["gpt"] = Field(description="Model family.")
    vocab_size: int = Field(description="Number of real tokens.", ge=2)
    architecture: Architecture = Field(description="Its shape. Dropout plays no part in a prediction.")
    start_token: Literal["first", "always"] = Field(description="Which predictions see a leading EOT.")
    eot_id: int = Field(description="Id of the end-of-text token.", ge=0)

    @model_validator(mode="after")
    def _check(self):
        if self.eot_id >= self.vocab_size:
            raise ValueError(f"eot_id {self.eot_id} is outside the vocabulary of {self.vocab_size} tokens")
        return self


class Linear(nn.Linear):
    """`torch.nn.Linear` that draws nothing from the global generator; its weights come from a file or from `GPT.initialize`."""

    def reset_parameters(self):
        _fill_nan(self)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` likewise."""

    def reset_parameters(self):
        _fill_nan(self)


def _fill_nan(module):
    """A model used before it has weights then predicts NaN, which every consumer refuses, and not arbitrary numbers."""
    for parameter in module.parameters(recurse=False):
        nn.init.constant_(parameter, math.nan)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.qkv = Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.output = Linear(shape.width, shape.width, bias=shape.bias)

    def forward(self, x, rotation):
        B, T, W = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)  # 3 of (B, H, T, W/H)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)  # (B, H, T, W/H)
        return F.dropout(self.output(y.transpose(1, 2).reshape(B, T, W)), self.dropout, self.training)


class MLP(nn.Module):
    """Two layers with GELU between, four times as wide inside."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.dropout = shape.dropout
        self.input = Linear(shape.width, 4 * shape.width, bias=shape.bias)
        self.output = Linear(4 * shape.width, shape.width, bias=shape.bias)

    def forward(self, x):
        return F.dropout(self.output(F.gelu(self.input(x))), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each on a normalised copy of the residual stream."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width, bias=shape.bias)
        self.attention = Attention(shape)
        self.mlp_norm = nn.LayerNorm(shape.width, bias=shape.bias)
        self.mlp = MLP(shape)

    def forward(self, x, rotation):
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Decoder-only transformer over a vocabulary of `vocab_size` tokens.

    Parameters
    ----------
    architecture : Architecture or dict
        Layers, heads, width, context length, positions, bias, dropout.
    vocab_size : int
        Number of real tokens V.

    Notes
    -----
    A new model holds NaN until `initialize` or a checkpoint gives it weights.
    """

    Config = GPTConfig

    def __init__(self, architecture, vocab_size):
        super().__init__()
        self.architecture = shape = Architecture.model_validate(architecture)
        self.vocab_size = vocab_size
        self.embedding = Embedding(vocab_size, shape.width)  # also the head
        self.positions = Embedding(shape.context_length, shape.width) if shape.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.final_norm = nn.LayerNorm(shape.width, bias=shape.bias)
        if shape.positions == "rotary":
            cos, sin = rotary_tables(shape.context_length, shape.width // shape.heads)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @classmethod
    def from_config(cls, config):
        """The model of a checked hypothesis configuration (`GPTConfig` as a dictionary)."""
        return cls(config["architecture"], config["vocab_size"])

    def initialize(self, seed):
        """Draw the initial weights, a stream per tensor, so that they depend on nothing but the seed and the architecture.

        Matrices are normal with standard deviation s = 0.02 sqrt(768 / width) (GPT-2's 0.02 at its width), those that write to the residual
        stream s / sqrt(2 layers); norms are 1, biases 0. The generator is NumPy's: its normals, unlike torch's, do not depend on the
        vector instructions of the machine.
        """
        std = _STD * math.sqrt(_STD_WIDTH / self.architecture.width)
        residual_std = std / math.sqrt(2 * self.architecture.layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim < 2:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                    continue
                normal = generator(seed, name).standard_normal(tuple(parameter.shape), dtype=np.float32)
                scale = np.float32(residual_std if name.endswith("output.weight") else std)
                parameter.copy_(torch.from_numpy(normal * scale))
        return self

    def layout(self):
        """(name, shape) of every tensor, in a fixed order; the tied head is the embedding and appears once."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def hidden(self, ids):
        """Final normalised states (B, T, W) of `ids` (B, T): the state at t has seen ids[:, : t + 1]."""
        T = ids.shape[1]
        if self.architecture.context_length < T:
            raise InputError(f"a sequence of {T} tokens is longer than the model's context_length {self.architecture.context_length}")
        x = self.embedding(ids)  # (B, T, W)
        if self.positions is not None:
            x = x + self.positions.weight[:T]
        rotation = None if self.positions is not None else (self.cos[:T], self.sin[:T])
        x = F.dropout(x, self.architecture.dropout, self.training)
        for block in self.blocks:
            x = block(x, rotation)
        return self.final_norm(x)

    def head(self, hidden):
        """Logits (..., V) of states (..., W), computed in float32 even under autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.embedding.weight.float())

    def forward(self, ids, targets):
        """Mean loss in nats per token of predicting `targets` (B, T) from `ids` (B, T); for training: autocast makes the logits coarse."""
        hidden, targets = self.hidden(ids).flatten(0, 1), targets.flatten()  # (B T, W), (B T)
        rows = _LOSS_ROWS if hidden.device.type == "cpu" else len(hidden)
        losses = [
            F.cross_entropy(F.linear(h, self.embedding.weight).float(), t, reduction="sum")
            for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
        return sum(losses) / len(targets)


def rotary_tables(context_length, head_width):
    """Cosines and sines (context_length, head_width / 2) of the rotation angles, rounded once from float64."""
    frequencies = _ROTARY_BASE ** (-np.arange(0, head_width, 2) / head_width)
    angles = np.outer(np.arange(context_length), frequencies)
    device = torch.get_default_device()  # meta when only the layout is wanted
    return torch.from_numpy(np.cos(angles)).float().to(device), torch.from_numpy(np.sin(angles)).float().to(device)


def rotate(x, cos, sin):
    """Turn each pair (x_i, x_{i + D/2}) of x (..., T, D) by its position's angle (cos, sin: (T, D/2)) [Su et al. 2021]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)


def parameter_layout(architecture, vocab_size):
    """`GPT.layout` from the configuration alone: nothing is allocated."""
    with torch.device("meta"):
        return GPT(architecture, vocab_size).layout()
