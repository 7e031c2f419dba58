"""Codec ``levels``: format, chunks, and sizes against the published accounting."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.messages import CONFIG, UNIFORM11, codecs, layout_of, tensor_dicts

from tokenbounds.codecs import levels as module
from tokenbounds.codecs.frame import decode, encode, message_bits
from tokenbounds.codecs.header_text import unpack

ROWS = json.loads((Path(__file__).parents[2] / "vectors/quantize.json").read_text())["rows"]


@settings(deadline=None)
@given(tensor_dicts, codecs)
def test_kmeans_codes_a_decoded_message_again_without_loss(tensors, codec):
    once = decode(encode(tensors, {}, codec=codec)).tensors
    twice = decode(encode(once, {}, codec={**codec, "method": "kmeans"})).tensors
    assert all(np.array_equal(once[name], twice[name]) for name in once)


def test_format_by_hand():
    """The bytes of a small message, taken apart as docs/message-format.md says, without the package's
    reader."""
    tensor = np.float32([2.0] * 5 + [-1.0] * 2 + [0.5])
    data = encode({"w": tensor}, {"a": [1, "é"]}, codec={"kind": "levels", "levels": 9, "method": "kmeans"})
    assert data[:4] == b"TBM\x02"
    assert data[4] == len(data) - 9
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])
    header = unpack(data[6 : 6 + data[5]], 1000).decode()
    codec = '{"codebook":"tensor","kind":"levels"}'
    assert header == f'{{"codec":{codec},"config":{{"a":[1,"é"]}},"layout":[["w",[8]]]}}'
    content = data[6 + data[5] : -4]
    assert content[0] == 3
    assert np.frombuffer(content[1:7], "<f2").tolist() == [2.0, -1.0, 0.5]
    # counts 5, 2, 1: the first lies in [3, 6] and is 3 + 0b10; the second in [2, 2] and the last in [1, 1]
    # take no bits
    assert content[7] == 0b10_000000
    assert len(content) % 4 == 0  # 8 bytes of codebook, then whole words


def test_chunks_do_not_show(monkeypatch):
    tensors = {
        "a": np.random.default_rng(0).normal(size=1000).astype(np.float32),
        "b": np.zeros(70, np.float32),
    }
    data = encode(tensors, {}, codec=UNIFORM11)
    whole = decode(data).tensors
    monkeypatch.setattr(module, "_CHUNK", 7)
    assert encode(tensors, {}, codec=UNIFORM11) == data
    parts = decode(data).tensors
    assert all(np.array_equal(whole[name], parts[name]) for name in tensors)


def test_probabilities_below_the_resolution_of_the_coder():
    tensor = np.zeros(16_900_000, np.float32)  # more than 2^24 values
    tensor[[5, 16_899_999]] = 1.0, -1.0
    data = encode({"w": tensor}, {}, codec=UNIFORM11)
    assert np.array_equal(decode(data).tensors["w"], tensor)
    assert len(data) < 200


def entropy_bits(values):
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()), counts.size


def check_size(data, tensors, codebook="tensor"):
    """Within 0.5% and 256 bytes of entropy, codewords and plain counts, computed here from the decoded
    values."""
    flat = [tensor.ravel() for tensor in decode(data, layout=layout_of(tensors)).tensors.values()]
    bits = 0
    for run in flat if codebook == "tensor" else [np.concatenate(flat)]:
        entropy, codewords = entropy_bits(run)
        bits += entropy + codewords * (16 + math.ceil(math.log2(run.size)))
    assert message_bits(data) <= 1.005 * bits + 8 * 256


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['file']}-{row['levels']}")
def test_size_on_gpt2(row, shared):
    tensors = {"w": np.fromfile(shared / "data/models/gpt2_124M_decoder1" / row["file"], ">f4")}
    data = encode(tensors, {}, codec={"kind": "levels", "levels": row["levels"]}, layout=layout_of(tensors))
    decoded = decode(data, layout=layout_of(tensors)).tensors["w"]
    assert np.mean((tensors["w"].astype(np.float64) - decoded) ** 2) == pytest.approx(row["mse"], rel=1e-10)
    assert message_bits(data) <= row["message_bits"] + 8 * 256
    assert (
        message_bits(data) >= entropy_bits(decoded)[0]
    )  # as any code of these symbols must, on average over their orders
    check_size(data, tensors)


@pytest.mark.parametrize("levels", [2, 3, 11, 300, 65536])
@pytest.mark.parametrize("codebook", ["tensor", "shared"])
def test_size_on_synthetic_weights(levels, codebook):
    rng = np.random.default_rng(5)
    tensors = {
        f"h.{i}": (rng.standard_t(5, size) * 0.02).astype(np.float32)
        for i, size in enumerate([768, 200_000, (300, 400), 1])
    }
    data = encode(
        tensors,
        CONFIG,
        codec={"kind": "levels", "levels": levels, "codebook": codebook},
        layout=layout_of(tensors),
    )
    check_size(data, tensors, codebook)


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_counts_never_cost_more_than_plain_counts(counts):
    counts = sorted(counts, reverse=True)
    total = sum(counts)
    intervals = list(module._count_intervals(counts, total, len(counts)))
    assert all(low <= count <= high for count, (low, high) in zip(counts, intervals, strict=True))
    assert sum((high - low).bit_length() for low, high in intervals) <= len(counts) * math.ceil(
        math.log2(total)
    )
