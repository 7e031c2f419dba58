"""A QuIP# LLaMA as a model family: it runs while one decoder layer at a time is dense."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tokenbounds.errors import InputError
from tokenbounds.models.quip.config import QuipConfig

# Tokens that a decoder layer takes at a time: the MLP of 8192 tokens at width 28672 holds 3 GB.
_PART_TOKENS = 8192


class QuipLlama(nn.Module):
    """A QuIP# LLaMA that runs in the type of its embedding while one decoder layer at a time is dense.

    Each call of `hidden` decodes every layer once, so larger batches make the decoding cheaper per token.

    Parameters
    ----------
    checkpoint : QuipCheckpoint
    vocab_size : int, optional
        Number of tokens that are predicted, if the checkpoint has more rows.

    Notes
    -----
    Embedding, last norm and head are dense parameters; layers are decoded on the device these were moved to.
    """

    Config = QuipConfig

    def __init__(self, checkpoint, vocab_size=None):
        super().__init__()
        # Imported here, because it takes seconds that decoding alone need not spend.
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import (
            LlamaDecoderLayer,
            LlamaRMSNorm,
            LlamaRotaryEmbedding,
        )

        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.vocab_size = vocab_size or checkpoint.config.vocab_size
        self.longest = checkpoint.config.max_position_embeddings
        names = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "max_position_embeddings",
            "rms_norm_eps",
        )
        shape = LlamaConfig(
            **{name: getattr(self.config, name) for name in names},
            num_hidden_layers=self.config.num_hidden_layers,
            num_key_value_heads=self.config.kv_heads,
            rope_parameters={"rope_type": "default", "rope_theta": self.config.rope_theta},
            attn_implementation="sdpa",
        )
        self.embedding = nn.Embedding.from_pretrained(checkpoint.weights("model.embed_tokens.weight"))
        self.rotary = LlamaRotaryEmbedding(shape)
        with torch.device("meta"):
            self.final_norm = LlamaRMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
            self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
            layer = LlamaDecoderLayer(shape, 0).eval()
        self.final_norm.weight = _frozen(checkpoint.weights("model.norm.weight"))
        self.lm_head.weight = _frozen(checkpoint.weights("lm_head.weight"))
        self._layer = (layer,)  # in a tuple, so that it is no submodule: it never has weights of its own
        modules = {
            name.rpartition(".")[2]: name
            for name, module in layer.named_modules()
            if list(module.parameters(recurse=False))
        }
        self._parameter_names = {short: f"{name}.weight" for short, name in modules.items()}

    def layout(self):
        """List (name, shape) of every tensor of the checkpoint."""
        return [(name, shape) for name, (_, shape) in self.config.layout().items()]

    @torch.no_grad()
    def hidden(self, ids):
        """Compute final normalised states (B, T, W) of `ids` (B, T).

        State t has seen ids[:, : t + 1].
        """
        (B, T), longest = ids.shape, self.longest
        if longest < T:
            raise InputError(f"a sequence of {T} tokens is longer than the model's {longest} positions")
        # Layers take parts of equally many rows, the last one filled up: no result depends on its row.
        parts = math.ceil(B / max(1, _PART_TOKENS // T))
        rows = math.ceil(B / parts)
        x = self.embedding(F.pad(ids, (0, 0, 0, parts * rows - B)))  # (parts * rows, T, W)
        positions = torch.arange(T, device=ids.device)[None]
        rotation = self.rotary(x, positions)
        # Without a mask, attention is causal.
        options = {"attention_mask": None, "position_ids": positions, "position_embeddings": rotation}
        for i in range(self.config.num_hidden_layers):
            self._apply_layer(i, x, rows, options)
        return self.final_norm(x[:B])

    def _apply_layer(self, i, x, rows, options):
        """Overwrite x (B, T, W) with the output of decoder layer i, `rows` rows at a time.

        The layer's dense weights live no longer than this call.
        """
        weights = {
            self._parameter_names[name]: tensor.to(x.dtype)
            for name, tensor in self.checkpoint.layer(i, x.device).items()
        }
        for part in x.split(rows):
            part.copy_(torch.func.functional_call(self._layer[0], weights, (part,), options))

    def head(self, hidden):
        """Compute logits (..., V) of states (..., W), in the type of the weights even under autocast; float32
        numbers."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.lm_head(hidden.to(self.lm_head.weight.dtype))[..., : self.vocab_size].float()


def _frozen(tensor):
    return nn.Parameter(tensor, requires_grad=False)
