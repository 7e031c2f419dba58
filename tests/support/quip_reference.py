"""QuIP# by its definitions, written out with explicit matrices, bit by bit: slow and plain."""

import hashlib
import math

import numpy as np
import scipy.linalg

from tokenbounds.models.quip.codebooks import e8p_table, e81b_table
from tokenbounds.models.quip.hadamard import hadamard, hadamard_order

KV_HEADS = 2  # heads of keys and values in the checkpoint of the fixture `folder`


def sha256(table, scale):
    """Checksum of a table whose entries are whole numbers once they are multiplied by `scale`."""
    scaled = table * scale
    assert np.array_equal(scaled, scaled.astype(np.int8))  # else other tables could have the same bytes
    return hashlib.sha256(scaled.astype(np.int8).tobytes()).hexdigest()


def explicit_hadamard(n):
    """The matrix H_n, float64."""
    order = hadamard_order(n)
    sylvester = scipy.linalg.hadamard(n // order)
    return np.kron(hadamard(order) if order > 1 else np.ones((1, 1)), sylvester) / math.sqrt(n)


def plain_codes(words):
    """Codes of an E8P block, bit by bit, (m, n / 8)."""
    rows, columns = words.shape
    blocks = np.ascontiguousarray(words).reshape(rows // 16, columns // 2, 8, 4)
    codes = np.full((rows, columns * 4), -1)
    for (R, C, r, g), word in np.ndenumerate(blocks):
        word = int(word) % 2**64
        for k in range(4):
            signs = sum((word >> 32 + 4 * p + k & 1) << p for p in range(8))
            codes[16 * R + 2 * r + (k & 1), (64 * C + 16 * g + 8 * (k >> 1)) // 8] = (
                word >> 8 * k & 255
            ) << 8 | signs
    return codes


def plain_dequantize(tensors, bits, residual_scale, fuse_sizes=None):
    """The dense weight with explicit matrices in float64."""
    stored = {name: tensor.numpy() for name, tensor in tensors.items()}
    outputs, inputs = len(stored["SV"]), len(stored["SU"])
    words, first = stored["Qidxs"], inputs // 32
    points = e8p_table()[plain_codes(words[:, :first])].astype(float)
    if bits == 4:
        points += e8p_table()[plain_codes(words[:, first:])] / residual_scale
    if bits == 3:
        points += e81b_table()[np.ascontiguousarray(words[:, first:]).view(np.uint8)] / residual_scale
    weight = explicit_hadamard(outputs) @ points.reshape(outputs, inputs) @ explicit_hadamard(inputs).T
    weight *= np.outer(stored["SV"].astype(float) * float(stored["Wscale"]), stored["SU"].astype(float))
    if "scaleWH" in stored:
        weight /= stored["scaleWH"]
    return (
        weight * np.repeat(stored["fuse_scales"].astype(float), fuse_sizes)[:, None] if fuse_sizes else weight
    )
