"""A GPT in plain PyTorch: pre-norm decoder, exact (erf) GELU, learned or rotary positions, head tied to the embedding.

Its linear layers may be structured (`tokenbounds.models.structured`), and its parameters in a subspace (`tokenbounds.models.subspace`).
Shapes in comments: B sequences, T tokens, W width, H heads, V vocabulary. Only a structured head has rows of padding, which predict
nothing: the logits are those of the V real tokens.
"""

import math
import zlib
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from tokenbounds.errors import InputError
from tokenbounds.models.layers import Embedding, Linear, mean_loss_nats
from tokenbounds.models.structured import structure_gpt
from tokenbounds.models.subspace import Subspace as SubspaceModel
from tokenbounds.sections import Architecture, HypothesisConfig, Section, Structure, Subspace
from tokenbounds.streams import normals

_STD, _STD_WIDTH = 0.02, 768  # of the initial weights: GPT-2's at GPT-2 small's width; at 64, 0.02 itself costs .3 bits after 1e6 tokens
_ROTARY_BASE = 10000.0


class Init(Section):
    """What a message's tensors are added to, or multiplied with, and that its decoder draws anew."""

    seed: int = Field(description="Seed of the streams of initial weights, frozen weights and projection.", ge=0, lt=2**32)
    check: int = Field(description="CRC32 of all that is drawn.", ge=0, lt=2**32)


class GPTConfig(HypothesisConfig):
    """Everything that defines a GPT hypothesis but its weights."""

    family: Literal["gpt"] = Field(description="Model family.")
    architecture: Architecture = Field(description="Its shape. Dropout plays no part in a prediction.")
    structure: Structure | None = Field(None, description="How its linear layers are parametrized. Dropout plays no part.")
    subspace: Subspace | None = Field(None, description="The random subspace that its parameters lie in.")
    last_tokens: int | None = Field(None, ge=0, description="Most tokens that a prediction sees, where that is less than context_length.")
    init: Init | None = Field(None, description="What is drawn and not in the message; with a structure or a subspace only.")

    @model_validator(mode="after")
    def _check(self):
        if (self.structure or self.subspace) and not self.init:
            raise ValueError("a model with a structure or a subspace needs `init`: what is drawn and not in the message")
        return self


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

    def __init__(self, architecture, vocab_size, structure=None):
        super().__init__()
        self.architecture = shape = Architecture.model_validate(architecture)
        self.vocab_size = vocab_size
        self.embedding = Embedding(vocab_size, shape.width)  # also the head
        self.vocabulary = None  # the head of a structured model, and its embedding unless that stays as drawn
        self.positions = Embedding(shape.context_length, shape.width) if shape.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.final_norm = nn.LayerNorm(shape.width, bias=shape.bias)
        if structure is not None:
            structure_gpt(self, structure)
        if shape.positions == "rotary":
            cos, sin = rotary_tables(shape.context_length, shape.width // shape.heads)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    @classmethod
    def from_config(cls, config):
        """The model of a checked hypothesis configuration (`GPTConfig` as a dictionary), with all that its message leaves out.

        Raises
        ------
        InputError
            What is drawn here is not what the model was coded with, or the structure or subspace does not fit the architecture.
        """
        config = GPTConfig.model_validate(config)
        if config.init is None:
            return cls(config.architecture, config.vocab_size)
        model, check = cls._drawn(config, config.init.seed)
        if check is not None and check != config.init.check:
            raise InputError(
                f"the frozen weights and projection drawn here (CRC32 {check}) are not those of the model ({config.init.check})"
            )
        return model

    @classmethod
    def create(cls, config, seed):
        """A new model for training and its hypothesis configuration.

        Parameters
        ----------
        config : dict
            `GPTConfig` without ``init``.
        seed : int
            Everything that is drawn is a function of it (modulo 2^32).
        """
        seed %= 2**32
        drawn = config.get("structure") is not None or config.get("subspace") is not None
        checked = GPTConfig.model_validate(config | ({"init": {"seed": seed, "check": 0}} if drawn else {}))
        model, check = cls._drawn(checked, seed)
        return model, config | ({"init": {"seed": seed, "check": check}} if drawn else {})

    @classmethod
    def _drawn(cls, config, seed):
        """An initialized model and the CRC32 of what its message leaves out; on the meta device nothing is drawn and it is None."""
        model = cls(config.architecture, config.vocab_size, config.structure)
        abstract = model.final_norm.weight.is_meta
        if not abstract:
            model.initialize(seed)
        if config.subspace is not None:
            model = SubspaceModel(model, config.subspace.dimension, seed)
        return model, None if abstract else model.check()

    def initialize(self, seed):
        """Draw all weights, a stream per tensor, so that they depend on nothing but the seed and the shapes (see `streams.normals`).

        Matrices are normal with standard deviation s = 0.02 sqrt(768 / width) (GPT-2's 0.02 at its width), those that write to the residual
        stream s / sqrt(2 layers); norms are 1, biases 0. The factors of a structured layer get what its dense matrix would have.
        """
        std = _STD * math.sqrt(_STD_WIDTH / self.architecture.width)

        def std_of(name):
            return std / math.sqrt(2 * self.architecture.layers) if name.endswith("output") else std

        def drawing(module_name):
            return lambda name, shape: torch.from_numpy(normals(seed, "init", f"{module_name}.{name}", shape=shape))

        with torch.no_grad():
            for module_name, module in self.named_modules():
                if module is self:
                    continue
                if hasattr(module, "initialize"):
                    module.initialize(drawing(module_name), std_of(module_name))
                    continue
                for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                    if tensor.ndim < 2:
                        tensor.fill_(0.0 if name == "bias" else 1.0)
                    else:
                        tensor.copy_(drawing(module_name)(name, tuple(tensor.shape)) * std_of(module_name))
        return self

    def check(self):
        """CRC32 of all that is drawn and not in the message: the frozen tensors."""
        found = 0
        for name, tensor in self.named_buffers():
            if name not in ("cos", "sin"):
                found = zlib.crc32(tensor.contiguous().numpy(), found)
        return found

    def layout(self):
        """(name, shape) of every tensor, in a fixed order; the tied head is the embedding and appears once."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def hidden(self, ids):
        """Final normalised states (B, T, W) of `ids` (B, T): the state at t has seen ids[:, : t + 1]."""
        T = ids.shape[1]
        if self.architecture.context_length < T:
            raise InputError(f"a sequence of {T} tokens is longer than the model's context_length {self.architecture.context_length}")
        x = self.vocabulary.rows(ids) if self.embedding is None else self.embedding(ids)  # (B, T, W)
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
            return self._logits(hidden.float()).float()

    def _logits(self, hidden):
        if self.vocabulary is None:
            return F.linear(hidden, self.embedding.weight)
        return self.vocabulary(hidden)[..., : self.vocab_size]

    def forward(self, ids, targets):
        """Mean loss in nats per token of predicting `targets` (B, T) from `ids` (B, T); for training: autocast makes the logits coarse."""
        return mean_loss_nats(self._logits, self.hidden(ids), targets)


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
