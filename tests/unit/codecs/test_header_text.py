"""The coder of headers: exact, the same bytes on every machine, shorter than deflate, and bounded."""

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.messages import contexts_of, json_values

from tokenbounds.codecs.header_text import pack, unpack
from tokenbounds.codecs.typical_headers import TYPICAL
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json

GPT = {
    "codec": {"codebook": "tensor", "kind": "levels"},
    "config": {
        "contexts": contexts_of(("token", 96), ("window", 96, 48)),
        "hypothesis": {
            "architecture": {
                **{"bias": False, "context_length": 96, "heads": 5, "layers": 7},
                **{"positions": "learned", "width": 320},
            },
            **{"eot_id": 3, "family": "gpt", "start_token": "first", "vocab_size": 9001},
        },
    },
    "layout": 1928374655,
}
PACKED = (
    "dde9e2ac37df337c83cf991e599fa61cec399e0f7cf5130c638a8f4ec805080afc1e1ec76ae77177c31eae5d"
    "8bfecc8629bd1043733fd38419fb"
)


@settings(deadline=None, max_examples=60)
@given(json_values)
def test_round_trip(value):
    text = canonical_json(value).encode()
    assert unpack(pack(text), len(text)) == text


def test_typical_headers_are_canonical_and_cost_little():
    for text in TYPICAL:
        assert canonical_json(json.loads(text)) == text
        assert len(pack(text.encode())) < 0.6 * len(zlib.compress(text.encode(), 9)[2:-4])


def test_the_bytes_of_a_header():
    """Fails if any machine or version codes otherwise; then the format's version must change."""
    packed = pack(canonical_json(GPT).encode())
    assert packed.hex() == PACKED
    assert len(packed) < 0.25 * len(zlib.compress(canonical_json(GPT).encode(), 9)[2:-4])


def test_only_what_pack_writes_is_read():
    """Bytes are refused, or are those of another text."""
    text = canonical_json(GPT).encode()
    packed = pack(text)
    with pytest.raises(InputError, match=r"corrupt message header .its text is coded otherwise"):
        unpack(packed + b"\0", 1000)
    with pytest.raises(InputError, match="its text is longer than 100 bytes"):
        unpack(packed, 100)
    for changed in (packed[:-1], packed[:20], b"", bytes([packed[0] ^ 1]) + packed[1:]):
        try:
            other = unpack(changed, 1000)
        except InputError:
            continue
        assert other != text and pack(other) == changed


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60))
def test_any_bytes(data):
    try:
        assert pack(unpack(data, 300)) == data
    except InputError as error:
        assert "\n" not in str(error)
