"""Messages with a right checksum that no encoder wrote: refused with one line, in little memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.messages import (
    LEVELS,
    SMALL,
    UNIFORM11,
    body_of,
    check_refused,
    check_refused_in_little_memory,
    forge,
    framed,
    header_with,
    json_values,
)

from tokenbounds.codecs import frame
from tokenbounds.codecs.frame import Message, decode, encode
from tokenbounds.errors import InputError

HALF = np.float16(0.5).tobytes()
ONE_LEVEL = b"\x01" + HALF


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (
            forge(header_with([["w", [1 << 40]]]), ONE_LEVEL),
            "states 1099511627776 values in .* bytes; expected at most",
        ),
        (forge(header_with([["w", [1 << 20] * 32]]), ONE_LEVEL), "states .* values"),
        (
            forge({"codec": {"kind": "float16"}, "config": {}, "layout": [["w", [1 << 24]]]}, b""),
            "truncated message .needs 33554432 bytes",
        ),
        (
            forge(header_with([["w", [100_000]]]), b"\xff\xff\x03"),
            "truncated message .needs 131070 bytes",
        ),
        (forge(header_with([["w", [3]]]), b"\x04" + 4 * HALF), "a codebook of 4 codewords; expected 1 to 3"),
        (
            forge(header_with([["w", [100_000]]]), b"\xff\xff\x04" + 12 * HALF),
            "a codebook of 81919 codewords; expected 1 to 65536",
        ),
        (forge(header_with([["w", [3]]]), b"\x00"), "a codebook of 0 codewords; expected 1 to 3"),
        (forge(header_with([["w", [3]]]), b"\x81\x00" + HALF), "not a valid varint"),
        (forge(header_with([["w", [3]]]), b"\xff" * 20), "not a valid varint"),
        (
            forge(header_with([["w", [3]]]), b"\x01" + np.float16(np.nan).tobytes()),
            "a codeword is not finite",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\xc0"),
            "a codeword's count of 7; expected at most 6",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x01"),
            "filling bits before byte .* are not zero",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x00abc"),
            "the coded symbols have 3 bytes; expected a multiple of 4",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x00"),
            "its content is not what its encoder writes",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x00" + b"\xff" * 8),
            "data that is invalid for the employed entropy model",
        ),
        (
            forge(header_with([["w", [3]]]), ONE_LEVEL + bytes(4)),
            "its content is not what its encoder writes",
        ),
        (forge(header_with([["w", []]]), b""), "truncated message"),
        (
            forge({"codec": {"kind": "float16"}, "config": {}, "layout": [["w", [1]]]}, 2 * HALF),
            "2 leftover bytes inside the message",
        ),
        (forge(b'{"codec":{},"codec":{},"config":{},"layout":0}', b""), "corrupt message header"),
        (
            forge(b'{"config":{},"codec":{"kind":"float16"},"layout":[["w",[1]]]}', b"\0\0"),
            "header .not in canonical form",
        ),
        (
            forge({"codec": {"kind": "levels"}, "config": {}, "layout": [["w", [1]]]}, ONE_LEVEL),
            "header .codec options kind; expected codebook, kind",
        ),
        (
            forge({"codec": UNIFORM11, "config": {}, "layout": [["w", [1]]]}, ONE_LEVEL),
            "header .codec options codebook, kind, levels, method; expected codebook, kind",
        ),
        (
            forge(header_with([["w", [1]]], codebook="shared"), ONE_LEVEL),
            'codec options .*"shared".*; expected .*"tensor"',
        ),
        (
            forge(header_with([["w", [3]]]), b"\x01" + np.float16(-0.0).tobytes()),
            "its content is not what its encoder writes",
        ),
        (
            forge(header_with([["w", [2]]]), b"\x02" + 2 * HALF + bytes(4)),
            "its content is not what its encoder writes",
        ),
        (forge(b"\xff\xfe", b""), "corrupt message header"),
        (forge(b"[" * 4_000, b""), "corrupt message header"),
        (forge({"codec": LEVELS, "config": {}}, b""), "corrupt message header"),
        (forge({"codec": LEVELS, "config": [], "layout": 0}, b""), "corrupt message header"),
        (forge({"codec": LEVELS, "config": {}, "layout": 0}, b""), "names and shapes are not stored"),
        (framed(b"\x05hello"), "corrupt message header"),
        (framed(b"\x00"), "corrupt message header"),
        (framed(b"\xff\x7f"), "truncated message .needs 16383 bytes at byte 7; 0 remain"),
        (framed(b""), "truncated message"),
        *(
            (forge(header_with(layout), ONE_LEVEL), "names and shapes are not a list of .name, shape.")
            for layout in (
                [],
                {},
                "w",
                None,
                1.5,
                [1],
                ["w"],
                [["w", [0]]],
                [["w", [-1]]],
                [["w", [1.0]]],
                [["w", [True]]],
            )
        ),
        *(
            (forge(header_with(layout), ONE_LEVEL), "names and shapes are not a list of .name, shape.")
            for layout in (
                [["", [1]]],
                [[1, [1]]],
                [["w", {}]],
                [["w", "1"]],
                [["w", [1] * 33]],
                [["w", [1]], ["w", [1]]],
                [["w", [1], 2]],
            )
        ),
    ],
)
def test_malformed_messages_are_refused_without_allocating(data, error):
    check_refused_in_little_memory(data, f"^evil: .*{error}", name="evil")


def test_header_that_expands_without_end(monkeypatch):
    monkeypatch.setattr(frame, "MAX_HEADER_BYTES", 2_000)
    check_refused_in_little_memory(forge(b" " * 4_000, b""), "its text is longer than 2000 bytes")


def test_words_after_the_coded_symbols():
    body = body_of(encode({"w": np.float32([1, 2, 3, 3] * 20)}, {}, codec=UNIFORM11))
    for extra in (bytes(4), b"abcd", bytes(400)):
        check_refused(framed(body + extra), "corrupt message")


BODIES = [
    body_of(encode(tensors, {"seed": 1}, codec=codec))
    for tensors in (SMALL, {"w": np.random.default_rng(0).normal(size=300).astype(np.float32)})
    for codec in (
        UNIFORM11,
        {**UNIFORM11, "method": "kmeans", "codebook": "shared", "levels": 4},
        {"kind": "float16"},
    )
]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.data(),
)
def test_nothing_but_an_input_error_for_a_changed_body(body, changes, data):
    changed = bytearray(body)
    for position, value in changes:
        changed[position % len(changed)] = value
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(changed)), st.integers(0, len(changed)))))
    if data.draw(st.booleans()):
        del changed[start:stop]
    try:
        assert isinstance(decode(framed(bytes(changed))), Message)
    except InputError as error:
        assert "\n" not in str(error)


@settings(deadline=None)
@given(json_values, json_values, json_values, st.binary(max_size=20))
def test_nothing_but_an_input_error_for_any_header(codec, config, layout, content):
    headers = [
        codec,
        {"codec": codec, "config": config, "layout": layout},
        {"codec": LEVELS, "config": {}, "layout": layout},
        {"codec": {"kind": codec}, "config": {}, "layout": [["w", [3]]]},
    ]
    for header in headers:
        with pytest.raises(InputError):
            decode(forge(header, content))
