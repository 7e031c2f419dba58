"""Messages for tests: small tensors, forged headers and frames, and checks that a message is refused."""

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.codecs.decode import decode_message
from tokenbounds.codecs.frame import decode
from tokenbounds.codecs.header import read_header
from tokenbounds.codecs.header_text import pack
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json

CONFIG = {
    "family": "gpt",
    "architecture": {"layers": 2, "heads": 4},
    "seed": 137,
    "context_length": 64,
    "start_token": "first",
}
UNIFORM11 = {"kind": "levels", "levels": 11, "method": "uniform", "codebook": "tensor"}
LEVELS = {"kind": "levels", "codebook": "tensor"}  # of these, what a message holds
SMALL = {"a": np.array([[0.5, -1.0, 0.5], [0.5, 0.25, 0.5]], np.float32), "b": np.float32([1.5, 1.5])}

elements = st.one_of(st.floats(-65504, 65504, width=32), st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-30]))
arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=8), elements=elements)
tensor_dicts = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), arrays, min_size=1, max_size=4
)
codecs = st.fixed_dictionaries(
    {
        "kind": st.just("levels"),
        "levels": st.integers(2, 400),
        "method": st.sampled_from(["uniform", "kmeans"]),
        "codebook": st.sampled_from(["tensor", "shared"]),
    }
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def layout_of(tensors):
    """List (name, shape) of tensors."""
    return [(name, np.shape(tensor)) for name, tensor in tensors.items()]


def framed(body):
    """Frame a body as a message with a right checksum."""
    data = Writer()
    data.write(b"TBM\x02")
    data.varint(len(body))
    data.write(body)
    data.write(zlib.crc32(data.data).to_bytes(4, "little"))
    return bytes(data.data)


def body_of(data):
    """Return the body of a message."""
    reader = Reader(data, "message")
    reader.section("all")
    reader.take(4)
    return bytes(reader.take(reader.varint()))


def forge(header, content):
    """Make a message from any header (a JSON value, or the bytes of a text) and any content."""
    text = header if isinstance(header, bytes) else canonical_json(header).encode()
    packed = pack(text)
    body = Writer()
    body.varint(len(packed))
    body.write(packed)
    body.write(content)
    return framed(body.data)


def header_with(layout, **codec):
    """Make the header of a message of codec `levels`."""
    return {"codec": {**LEVELS, **codec}, "config": {}, "layout": layout}


def check_refused(data, match, **options):
    """Check that a message is refused with one line that matches."""
    with pytest.raises(InputError, match=match) as error:
        decode(data, **options)
    assert "\n" not in str(error.value)


def check_refused_in_little_memory(data, match, **options):
    """Check that a message is refused before much memory is allocated."""
    tracemalloc.start()
    try:
        check_refused(data, match, **options)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def repaired(data, position, value):
    """Change one byte of a message's body, or of its version, and give it the checksum of what it then is."""
    changed = bytearray(data)
    changed[position] = value
    changed[-4:] = zlib.crc32(changed[:-4]).to_bytes(4, "little")
    return bytes(changed)


def contexts_of(*schemes):
    """Contexts as a message holds them, of (mode, context_length) or (mode, context_length, window)."""
    keys = ("mode", "context_length", "window")
    entries = [dict(zip(keys, scheme, strict=False)) for scheme in schemes]
    arithmetic = {"dtype": "float32", "multiple": 8, "batch_tokens": 64}
    return {"arithmetic": arithmetic, "schemes": sorted(entries, key=canonical_json)}


def check_model_refused(data, match, folder, header=True):
    """Check that a model's message is refused with one line that matches, and so is its header if that shows
    it."""
    readers = [lambda: decode_message(data, name="m.bin")]
    if header:
        (folder / "m.bin").write_bytes(data)
        readers.append(lambda: read_header(folder / "m.bin"))
    for read in readers:
        with pytest.raises(InputError, match=match) as error:
            read()
        assert "\n" not in str(error.value) and "m.bin" in str(error.value)
