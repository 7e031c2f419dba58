"""QuIP# checkpoints with random codes, of any size."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

PARAMS = {
    2: {"codebook": "E8P12", "codebook_version": 1},
    3: {"codebook": "E8P12RVQ3B", "codebook_version": 0},
    4: {"codebook": "E8P12RVQ4B", "codebook_version": 1},
}
CODEBOOK_ID = {2: 7, 3: 18, 4: 17}
PUBLISHED = {
    "codesz": 8,
    "idx_dtype": "torch.int64",
    "lora_rank": 0,
    "rescale_WH": False,
    "resid_scale_override": -1,
    "model_version": 1,
    "outlier_channel_split": False,
    "fused": True,
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 37,
    "max_position_embeddings": 24,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "torch_dtype": "float16",
    "quip_params": {**PARAMS[3], **PUBLISHED, "packsz": 8 / 3},
}


def packed_linear(bits, outputs, inputs, fuse_sizes=None, scale_wh=False, seed=0, scale=0.75):
    """Make the tensors of one quantized linear layer."""
    random = np.random.default_rng(seed)
    words = random.integers(-(2**63), 2**63, (outputs, inputs * bits // 64), dtype=np.int64)

    def half(*shape):
        return torch.from_numpy(
            (random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape)).astype(np.float16)
        )

    tensors = {"Qidxs": torch.from_numpy(words), "SU": half(inputs), "SV": half(outputs)}
    tensors |= {
        "Wscale": torch.tensor(scale, dtype=torch.float16),
        "codebook_id": torch.tensor(CODEBOOK_ID[bits]),
    }
    if fuse_sizes:
        tensors["fuse_scales"] = half(len(fuse_sizes))
    if scale_wh:
        tensors["scaleWH"] = half(inputs)
    return tensors


def layer_tensors(config, i, bits, seed, scale=0.15):
    """Make the tensors of decoder layer `i`."""
    random = np.random.default_rng([seed, i])
    width, inner = config["hidden_size"], config["intermediate_size"]
    kv_width = (
        width
        // config["num_attention_heads"]
        * (config.get("num_key_value_heads") or config["num_attention_heads"])
    )
    linears = {
        "self_attn.qkv_proj": (width + 2 * kv_width, width, (width, kv_width, kv_width)),
        "self_attn.o_proj": (width, width, None),
        "mlp.upgate_proj": (2 * inner, width, (inner, inner)),
        "mlp.down_proj": (width, inner, None),
    }
    tensors = {}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"model.layers.{i}.{norm}.weight"] = 1 + _normal(random, 0.1, width)
    for j, (name, (outputs, inputs, fuse_sizes)) in enumerate(linears.items()):
        linear = packed_linear(bits, outputs, inputs, fuse_sizes, seed=10 * i + j, scale=scale)
        tensors |= {f"model.layers.{i}.{name}.{part}": tensor for part, tensor in linear.items()}
    return tensors


def outer_tensors(config, seed, head=0.3):
    """Make the tensors of embedding, head and last norm."""
    random = np.random.default_rng(seed)
    width, vocab_size = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": _normal(random, 1, vocab_size, width)}
    tensors |= {
        "lm_head.weight": _normal(random, head, vocab_size, width),
        "model.norm.weight": 1 + _normal(random, 0.1, width),
    }
    return tensors


def _normal(random, scale, *shape):
    return torch.from_numpy((scale * random.standard_normal(shape, dtype=np.float32)).astype(np.float16))


def random_tensors(config, seed=5):
    """Make the tensors of a 3-bit checkpoint whose activations stay moderate."""
    tensors = outer_tensors(config, seed)
    for i in range(config["num_hidden_layers"]):
        tensors |= layer_tensors(config, i, 3, seed)
    return tensors


def write_checkpoint(folder, config=CONFIG, tensors=None, shards=1):
    """Write a checkpoint in one file or in shards with an index."""
    folder.mkdir(exist_ok=True, parents=True)
    tensors = random_tensors(config) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map = {}
    for j in range(shards):
        part = {name: tensors[name] for name in sorted(tensors)[j::shards]}
        file = f"model-{j + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    return folder
