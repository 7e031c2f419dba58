"""Small causal language models, as the transformers library builds them, and their logits."""

import numpy as np
import torch

from tokenbounds.models.pretrained import read_folder

VOCAB = 50  # of 53 rows
SHAPE = {
    "vocab_size": 53,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
LLAMA = {"model_type": "llama", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24}
KINDS = {
    "llama": LLAMA,
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "llama-yarn": {
        **LLAMA,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    },
    "gpt2": {"model_type": "gpt2", **SHAPE},
    "gpt_neox": {"model_type": "gpt_neox", **SHAPE, "intermediate_size": 40},
    "mistral": {
        "model_type": "mistral",
        **SHAPE,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "head_dim": 4,
        "sliding_window": 5,
    },
    "gemma2": {
        **{"model_type": "gemma2", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 4},
        **{"attn_logit_softcapping": 0.5, "final_logit_softcapping": None},
    },
    "qwen2": {"model_type": "qwen2", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24},
}


def hypothesis(entries, **changes):
    return {
        "family": "transformers",
        "vocab_size": VOCAB,
        "transformers": entries,
        "context_length": 32,
        "start_token": "first",
    } | {
        "eot_id": 0,
        **changes,
    }


def random_ids(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, shape))


def library_model(entries, seed=0):
    """A model that the library builds by itself, all its parameters random: norms and biases too must
    matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**entries)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model.head(model.hidden(ids))


def library_logits(model, ids):
    with torch.no_grad():
        return model(ids).logits[..., :VOCAB]


def read(folder, **options):
    """Read a checkpoint as a published one: model and hypothesis configuration."""
    return read_folder(folder, **{"vocab_size": VOCAB, "eot_id": 0, **options})
