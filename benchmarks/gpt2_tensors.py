"""Weighted error of codecs on matrices of a real GPT-2, at equal bits per weight.

The folder holds big-endian float32 matrices (inputs, outputs), one file each, 768 inputs. Real inputs are not
at hand: second moments are those of correlated ones (.9 from one to the next) of sizes exp(N(0, 1/4)).
Printed are the bits per weight of each message, and tr((W - W^) H (W - W^)^T) / tr(W H W^T).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from tokenbounds.codecs.frame import decode, encode
from tokenbounds.codecs.lattice import quantize_linear, reconstruct
from tokenbounds.codecs.sequential.rounding import feedback, stepped

INPUTS = 768


def moments():
    """Make second moments of inputs."""
    places = np.arange(INPUTS)
    sizes = np.exp(0.5 * np.random.default_rng(9).standard_normal(INPUTS))
    return sizes[:, None] * 0.9 ** np.abs(places[:, None] - places) * sizes


def sequential(weight, hessian, bits):
    """Return values and bits of the finest message of codec `sequential` of at most so many bits."""
    upper = feedback(torch.from_numpy(hessian))
    low, high, best = -20.0, 5.0, None
    while high - low > 0.01:
        middle = (low + high) / 2
        field = stepped(
            torch.from_numpy(weight), upper, torch.ones(len(weight)), 2.0**middle * upper.diagonal()
        )
        data = encode({"w": field}, {}, codec={"kind": "sequential"})
        fits = 8 * len(data) <= bits
        low, high = (low, middle) if fits else (middle, high)
        if fits:
            best = decode(data).tensors["w"], 8 * len(data)
    return best


def main():
    """Print a row per matrix and codec."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    hessian = moments()
    print("matrix,codec,bits_per_weight,weighted_error")
    paths = sorted(parser.parse_args().folder.glob("*.w.dat"))
    for path in (path for path in paths if path.stat().st_size >= 4 * INPUTS**2):
        weight = np.fromfile(path, ">f4").astype(np.float32).reshape(INPUTS, -1).T.copy()
        messages = {}
        for method in ("uniform", "kmeans"):
            codec = {"kind": "levels", "levels": 11, "method": method}
            data = encode({"w": weight}, {}, codec=codec)
            messages[f"{method} 11"] = decode(data).tensors["w"], 8 * len(data)
        result = quantize_linear(weight, hessian, 3, seed=0, name="w", tuning_rounds=2)
        data = encode({"w": result}, {}, codec={"kind": "lattice", "bits": 3, "seed": 0})
        messages["lattice 3"] = reconstruct(result), 8 * len(data)
        messages["sequential 3"] = sequential(weight, hessian, 3 * weight.size)
        size = np.sum(weight @ hessian * weight)
        for codec, (values, bits) in messages.items():
            error = weight - values.reshape(weight.shape)
            print(
                f"{path.name.removesuffix('.w.dat')},{codec},{bits / weight.size:.2f},"
                f"{np.sum(error @ hessian * error) / size:.5f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
