"""A GPT in plain PyTorch: pre-norm decoder, exact (erf) GELU, learned or rotary positions, head tied to the
embedding.

Its linear layers may be structured (`tokenbounds.models.structured`), and its parameters in a subspace
(`tokenbounds.models.subspace`). Shapes in comments: B sequences, T tokens, W width, H heads, V vocabulary.
Only a structured head has rows of padding, which predict nothing: the logits are those of the V real tokens.
"""

import math
import zlib
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from tokenbounds.config.schema import Architecture, HypothesisConfig, Section, Structure, Subspace
from tokenbounds.errors import InputError
from tokenbounds.models.layers import Embedding, Linear, mean_loss_nats
from tokenbounds.models.structured import structure_gpt
from tokenbounds.models.subspace import Subspace as SubspaceModel
from tokenbounds.randomness import normals

# Standard deviation of initial weights, and its width: those of GPT-2 small. It scales with 1 / sqrt(width):
# 0.02 at width 64 costs .3 bits after 1e6 tokens.
_STD, _STD_WIDTH = 0.02, 768
_ROTARY_BASE = 10000.0


class Init(Section):
    """Random values that a message leaves out, because its decoder draws them again."""

    seed: int = Field(
        description="Seed of the streams of initial weights, frozen weights and projection.", ge=0, lt=2**32
    )
    check: int = Field(description="CRC32 of all drawn values.", ge=0, lt=2**32)


class GPTConfig(HypothesisConfig):
    """Hypothesis configuration of a GPT: everything that defines it but its weights."""

    family: Literal["gpt"] = Field(description="Model family.")
    architecture: Architecture = Field(
        description="Shape of the model. Dropout has no effect on predictions."
    )
    structure: Structure | None = Field(
        None, description="Parametrization of the linear layers. Dropout has no effect on predictions."
    )
    subspace: Subspace | None = Field(None, description="Random subspace that holds the parameters.")
    last_tokens: int | None = Field(
        None, ge=0, description="Most tokens that a prediction sees, if fewer than context_length."
    )
    init: Init | None = Field(
        None, description="Random values that the message leaves out; with a structure or a subspace only."
    )

    @property
    def longest(self):
        """Longest input in tokens; a model without context sees the start token."""
        length = self.architecture.context_length
        return length if self.last_tokens is None else min(length, max(1, self.last_tokens))

    @model_validator(mode="after")
    def _check(self):
        if (self.structure or self.subspace) and not self.init:
            raise ValueError(
                "a model with a structure or a subspace needs `init`: what is drawn and not in the message"
            )
        return self


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        self.qkv = Linear(shape.width, 3 * shape.width, bias=shape.bias)
        self.output = Linear(shape.width, shape.width, bias=shape.bias)

    def forward(self, x, rotation):
        """Mix the tokens of `x` (B, T, W), each with those before it; `rotation`: rotary tables or None."""
        B, T, W = x.shape
        # 3 of (B, H, T, W/H)
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )  # (B, H, T, W/H)
        return F.dropout(self.output(y.transpose(1, 2).reshape(B, T, W)), self.dropout, self.training)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.dropout = shape.dropout
        self.input = Linear(shape.width, 4 * shape.width, bias=shape.bias)
        self.output = Linear(4 * shape.width, shape.width, bias=shape.bias)

    def forward(self, x):
        """Transform each token of `x` (B, T, W)."""
        return F.dropout(self.output(F.gelu(self.input(x))), self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each applied to a normalised copy of the residual stream."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.width, bias=shape.bias)
        self.attention = Attention(shape)
        self.mlp_norm = nn.LayerNorm(shape.width, bias=shape.bias)
        self.mlp = MLP(shape)

    def forward(self, x, rotation):
        """Add attention and MLP to `x` (B, T, W)."""
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
    structure : tokenbounds.config.schema.LoRA, Kronecker or Monarch, optional
        Parametrization of the linear layers.

    Notes
    -----
    A new model holds NaN until `initialize` or a checkpoint gives it weights.
    """

    Config = GPTConfig

    def __init__(self, architecture, vocab_size, structure=None):
        super().__init__()
        self.architecture = shape = Architecture.model_validate(architecture)
        self.vocab_size, self.longest = vocab_size, shape.context_length
        self.embedding = Embedding(vocab_size, shape.width)  # also the head
        self.vocabulary = None  # head of a structured model, and its embedding unless that is frozen
        self.positions = (
            Embedding(shape.context_length, shape.width) if shape.positions == "learned" else None
        )
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
        """Build the model of a hypothesis configuration, and draw everything that its message leaves out.

        Parameters
        ----------
        config : dict
            A valid `GPTConfig` as a dictionary.

        Returns
        -------
        GPT or tokenbounds.models.subspace.Subspace

        Raises
        ------
        InputError
            The values drawn here differ from those that the model was coded with, or the structure or
            subspace does not fit the architecture.
        """
        config = GPTConfig.model_validate(config)
        if config.init is None:
            model = cls(config.architecture, config.vocab_size)
            model.longest = config.longest
            return model
        model, check = cls._drawn(config, config.init.seed)
        if check is not None and check != config.init.check:
            raise InputError(
                f"the frozen weights and projection drawn here (CRC32 {check}) "
                f"are not those of the model ({config.init.check})"
            )
        return model

    @classmethod
    def create(cls, config, seed):
        """Build a model with initial weights, for training.

        Parameters
        ----------
        config : dict
            `GPTConfig` without ``init``.
        seed : int
            Seed (modulo 2^32) of all random draws.

        Returns
        -------
        model : GPT or tokenbounds.models.subspace.Subspace
        config : dict
            Its hypothesis configuration, with ``init`` if it has a structure or a subspace.
        """
        seed %= 2**32
        drawn = config.get("structure") is not None or config.get("subspace") is not None
        checked = GPTConfig.model_validate(config | ({"init": {"seed": seed, "check": 0}} if drawn else {}))
        model, check = cls._drawn(checked, seed)
        return model, config | ({"init": {"seed": seed, "check": check}} if drawn else {})

    @classmethod
    def _drawn(cls, config, seed):
        """Build an initialized model, and the CRC32 of all values that its message leaves out.

        On the meta device nothing is drawn, and the CRC32 is None.
        """
        model = cls(config.architecture, config.vocab_size, config.structure)
        model.longest = config.longest
        abstract = model.final_norm.weight.is_meta
        if not abstract:
            model.initialize(seed)
        if config.subspace is not None:
            model = SubspaceModel(model, config.subspace.dimension, seed)
        return model, None if abstract else model.check()

    def initialize(self, seed):
        """Draw all weights, from a random stream per tensor: they depend on the seed and the shapes only.

        ==============================================  ================================================
        matrices                                        normal, standard deviation s = 0.02 sqrt(768 / W):
                                                        0.02 at the width of GPT-2
        matrices that write to the residual stream      normal, standard deviation s / sqrt(2 layers)
        factors of a structured layer                   as their module derives them from that of the
                                                        dense matrix
        weights of norms; biases                        1; 0
        ==============================================  ================================================

        Parameters
        ----------
        seed : int
            Seed of the streams; see `tokenbounds.randomness.normals`.

        Returns
        -------
        GPT
            The model itself.
        """
        std = _STD * math.sqrt(_STD_WIDTH / self.architecture.width)

        def std_of(name):
            return std / math.sqrt(2 * self.architecture.layers) if name.endswith("output") else std

        def drawing(module_name):
            return lambda name, shape: torch.from_numpy(
                normals(seed, "init", f"{module_name}.{name}", shape=shape)
            )

        with torch.no_grad():
            for module_name, module in self.named_modules():
                if module is self:
                    continue
                if hasattr(module, "initialize"):
                    module.initialize(drawing(module_name), std_of(module_name))
                    continue
                for name, tensor in [
                    *module.named_parameters(recurse=False),
                    *module.named_buffers(recurse=False),
                ]:
                    if tensor.ndim < 2:
                        tensor.fill_(0.0 if name == "bias" else 1.0)
                    else:
                        tensor.copy_(drawing(module_name)(name, tuple(tensor.shape)) * std_of(module_name))
        return self

    def check(self):
        """Compute the CRC32 of all drawn values that are not in the message: the frozen tensors."""
        crc = 0
        for _, tensor in self.frozen():
            crc = zlib.crc32(tensor.contiguous().numpy(), crc)
        return crc

    def frozen(self):
        """Yield (name, tensor) of all weights that do not train: buffers, which are not in the message."""
        yield from ((name, tensor) for name, tensor in self.named_buffers() if name not in ("cos", "sin"))

    def layout(self):
        """List (name, shape) of every tensor, in a fixed order; the tied head and embedding appear once."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def hidden(self, ids):
        """Compute final normalised states (B, T, W) of `ids` (B, T): state t has seen ids[:, : t + 1]."""
        T, longest = ids.shape[1], self.architecture.context_length
        if longest < T:
            raise InputError(f"a sequence of {T} tokens is longer than the model's context_length {longest}")
        x = self.vocabulary.rows(ids) if self.embedding is None else self.embedding(ids)  # (B, T, W)
        if self.positions is not None:
            x = x + self.positions.weight[:T]
        rotation = None if self.positions is not None else (self.cos[:T], self.sin[:T])
        x = F.dropout(x, self.architecture.dropout, self.training)
        for block in self.blocks:
            x = block(x, rotation)
        return self.final_norm(x)

    def head(self, hidden):
        """Compute logits (..., V) of states (..., W), in the type of the weights even under autocast; float32
        numbers."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self._logits(hidden.to(self.final_norm.weight.dtype)).float()

    def _logits(self, hidden):
        if self.vocabulary is None:
            return F.linear(hidden, self.embedding.weight)
        return self.vocabulary(hidden)[..., : self.vocab_size]

    def head_weight(self):
        """Return the parameter that is the head's matrix (V, W); None with a structured head."""
        return self.embedding.weight if self.vocabulary is None else None

    def forward(self, ids, targets):
        """Compute the mean loss in nats per token of predicting `targets` (B, T) from `ids` (B, T).

        For training only: under autocast its logits are rounded.
        """
        return mean_loss_nats(self._logits, self.hidden(ids), targets)


def rotary_tables(context_length, head_width):
    """Tabulate cosine and sine of the angles of rotary positions, rounded once from float64.

    Parameters
    ----------
    context_length : int
    head_width : int
        Even.

    Returns
    -------
    cos, sin : Tensor of float32, shape (context_length, head_width / 2)
        On the current default device.
    """
    frequencies = _ROTARY_BASE ** (-np.arange(0, head_width, 2) / head_width)
    angles = np.outer(np.arange(context_length), frequencies)
    device = torch.get_default_device()  # meta when only the layout is wanted
    cos, sin = (torch.from_numpy(table(angles)).float().to(device) for table in (np.cos, np.sin))
    return cos, sin


def rotate(x, cos, sin):
    """Rotate each pair (x_i, x_{i + D/2}) by the angle of its position [Su et al. 2021].

    Parameters
    ----------
    x : Tensor, shape (..., T, D)
    cos, sin : Tensor, shape (T, D / 2)
        As from `rotary_tables`.

    Returns
    -------
    Tensor, shape (..., T, D)
        Of the type of `x`.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)
