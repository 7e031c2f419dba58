"""Bytes, varints and bits of a message."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.errors import InputError


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**40 - 1), st.sampled_from([40, 41, 64]))), st.integers(0, 2**63 - 1)
)
def test_writer_and_reader_are_inverse(numbers, length):
    writer = Writer()
    writer.varint(length)
    for value, width in numbers:
        writer.bits(value, width)
    writer.align()
    writer.write(b"end")
    reader = Reader(memoryview(bytes(writer.data)), "bytes")
    reader.section("all")
    assert reader.varint() == length
    assert [reader.bits(width) for _, width in numbers] == [value for value, _ in numbers]
    reader.align()
    assert bytes(reader.rest()) == b"end"
    with pytest.raises(InputError, match="bytes: truncated message"):
        reader.take(1)
