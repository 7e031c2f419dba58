"""A QuIP# checkpoint of LLaMA-2-7B's shape at 2 bits, with random codes: sized and scored on a CPU, time and
memory reported.

    python tests/scale/quip_7b.py [folder]

The folder (default: a temporary one, removed afterwards) needs 2.2 GB. The model is useless: with random
codes its loss is worse than that of a random guess. The script measures the cost of decoding, sizing and
scoring.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.quip_checkpoints import PARAMS, PUBLISHED, layer_tensors, outer_tensors

from tokenbounds.codecs.compressors import size_record
from tokenbounds.corpus.contexts import Item
from tokenbounds.models.quip.checkpoint import QuipCheckpoint
from tokenbounds.models.quip.llama import QuipLlama
from tokenbounds.scoring.score import score_items

CONFIG = {
    **{
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    **{
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    },
    "quip_params": {**PARAMS[2], **PUBLISHED, "packsz": 4},
}
SHARDS, POSITIONS, CONTEXT = 2, 4, 64


def write(folder):
    """Write the checkpoint in shards, a layer at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weight_map, layers = {}, CONFIG["num_hidden_layers"]
    for shard in range(SHARDS):
        tensors = outer_tensors(CONFIG, 1, head=0.02) if shard == 0 else {}
        for i in range(layers * shard // SHARDS, layers * (shard + 1) // SHARDS):
            tensors |= layer_tensors(CONFIG, i, 2, seed=1, scale=0.01)
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        save_file(tensors, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def memory():
    """Return the largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main(folder):
    """Write a checkpoint to `folder` unless it holds one, and report costs."""
    start = time.perf_counter()
    if not (folder / "model.safetensors.index.json").exists():
        write(folder)
        print(
            f"written in {time.perf_counter() - start:.0f} s; "
            f"run it again with this folder for figures of memory: {folder}",
            flush=True,
        )
    checkpoint = QuipCheckpoint(folder)
    print(
        f"{sum(path.stat().st_size for path in checkpoint.files):,} bytes in {len(checkpoint.files)} files",
        flush=True,
    )
    start = time.perf_counter()
    record = size_record(checkpoint.files, ["gzip"], progress=False)
    print(
        f"C(h): gzip gives {record['bytes']:,} bytes in {time.perf_counter() - start:.0f} s; "
        f"memory {memory():.2f} GB",
        flush=True,
    )
    times = []
    for i in range(3):
        start = time.perf_counter()
        checkpoint.layer(i)
        times.append(time.perf_counter() - start)
    threads = torch.get_num_threads()
    print(f"decoding a layer: {min(times):.1f} s ({threads} threads); memory {memory():.2f} GB", flush=True)
    random = np.random.default_rng(0)
    items = []
    for draw in range(POSITIONS):
        ids = random.integers(3, CONFIG["vocab_size"], CONTEXT)
        items.append(
            Item(
                ids,
                CONTEXT - 1,
                ids[:1],
                np.array([draw]),
                np.array([CONTEXT], np.int32),
                draw,
                draw,
                CONTEXT,
            )
        )
    start = time.perf_counter()
    model = QuipLlama(checkpoint).eval()
    arithmetic = {"dtype": "float32", "multiple": CONTEXT, "batch_tokens": POSITIONS * CONTEXT}
    scored = score_items(model, items, arithmetic=arithmetic, name="llama-7b")
    seconds = time.perf_counter() - start
    losses = [-float(log2_q[0]) for log2_q, *_ in scored]
    print(
        f"{POSITIONS} positions of {CONTEXT} tokens scored in {seconds:.0f} s: {np.round(losses, 2)} bits; "
        f"memory {memory():.2f} GB"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
