"""Codec ``sequential`` in a message: what is coded comes back, one message for one content, and one line for
what no encoder writes."""

import functools

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.messages import body_of, check_refused, check_refused_in_little_memory, forge, repaired
from support.sequential import CODEC, body, message, same_field, stepped_tensor

from tokenbounds.codecs.bits import Reader
from tokenbounds.codecs.frame import decode, encode
from tokenbounds.codecs.sequential.adaptive import put_even
from tokenbounds.codecs.sequential.codec import SequentialCodec
from tokenbounds.codecs.sequential.matrix import MatrixCoder, canonical, sides
from tokenbounds.codecs.sequential.rounding import round_plainly
from tokenbounds.errors import InputError

SHAPES = [(), (1,), (5,), (40,), (3, 4), (1, 33), (33, 1), (32, 35), (2, 3, 4), (4, 2, 2, 9)]


def fields_of(data, layout):
    """The fields of a body."""
    return SequentialCodec().read(Reader(memoryview(data), "m"), layout, {})


@st.composite
def fields(draw):
    """Stepped tensors; of the larger ones only some numbers and exponents are drawn one by one."""
    shape = draw(st.sampled_from(SHAPES))
    rows, columns = sides(shape)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    most = draw(st.sampled_from([0, 1, 5, 30, 900, 32767]))
    numbers = rng.integers(-most, most + 1, (rows, columns))
    for number in draw(st.lists(st.integers(-most, most) | st.just(most), max_size=4)):
        numbers[rng.integers(rows), rng.integers(columns)] = number
    parts = []
    for length in (rows, columns):
        spread = draw(st.sampled_from([0, 0, 1, 9, 127]))
        part = rng.integers(0, spread + 1, length)
        parts.append(part - part.min())
    return stepped_tensor(numbers, shape, draw(st.integers(-400, 60)), *parts)


# ---------------------------------------------------------------- round trips


@settings(deadline=None, max_examples=40)
@given(st.lists(fields(), min_size=1, max_size=4))
def test_stepped_tensors_come_back(parts):
    tensors = {f"t{number}": field for number, field in enumerate(parts)}
    data = message(tensors, {"a": 1})
    assert data == message(tensors, {"a": 1})
    decoded = decode(data)
    assert decoded.config == {"a": 1} and decoded.codec == CODEC
    assert sum(decoded.section_bytes.values()) == len(data)
    for (name, values), field in zip(decoded.tensors.items(), parts, strict=True):
        assert values.dtype == np.float32 and values.shape == tensors[name].shape
        assert values.tobytes() == canonical(field).values().tobytes()


@settings(deadline=None, max_examples=30)
@given(st.lists(fields(), min_size=1, max_size=3))
def test_a_decoded_message_codes_to_the_same_bytes(parts):
    parts = [canonical(field) for field in parts]
    tensors = {f"t{number}": field for number, field in enumerate(parts)}
    content = body(tensors)
    back = fields_of(content, [(name, field.shape) for name, field in tensors.items()])
    assert all(same_field(*pair) for pair in zip(parts, back, strict=True))
    assert body(dict(zip(tensors, back, strict=True))) == content


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("number", [-32767, -1, 0, 1, 32767])
def test_tensors_of_one_number(shape, number):
    field = stepped_tensor(np.full(sides(shape), number), shape, exponent=-20)
    values = decode(message({"w": field})).tensors["w"]
    assert values.shape == shape and (values == np.float32(number * 2.0**-5)).all()
    assert len(message({"w": field})) < 150


@pytest.mark.parametrize("spread", [1, 126, 127])
def test_exponents_of_rows_and_columns(spread):
    rows, columns = np.arange(40) % (spread + 1), np.array([spread, *[0] * 36])
    field = stepped_tensor(np.arange(40 * 37).reshape(40, 37) % 19 - 9, (40, 37), -400, rows, columns)
    assert (
        decode(message({"w": field})).tensors["w"].tobytes() == field.values().reshape(field.shape).tobytes()
    )


def test_all_but_the_first_of_many_equal_tensors_are_cheap():
    numbers = np.random.default_rng(0).integers(-4, 5, (8, 16))
    sizes = [len(message({f"t{i}": stepped_tensor(numbers) for i in range(count)})) for count in (1, 2, 40)]
    assert sizes[2] - sizes[1] < 38 * 1.15 * (16 * 8 * np.log2(9) + 60) / 8


# ---------------------------------------------------------------- tensors that are not prepared


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_plain_tensors_are_rounded_to_a_64th_of_their_size(shape, kind):
    values = np.random.default_rng(1).normal(3, 0.5, shape).astype(kind).reshape(shape)
    decoded = decode(message({"w": values})).tensors["w"]
    assert decoded.shape == values.shape and decoded.dtype == np.float32
    step = np.sqrt(np.mean(np.square(values, dtype=np.float64))) / 64 * 2**0.125
    assert np.abs(decoded - values.astype(np.float32)).max() <= 0.5001 * step


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((3, 4), np.float32),
        np.zeros((), np.float32),
        np.full(40, 1e-30, np.float32),
        np.full((40, 40), 6e4, np.float32),
        np.float32([65504, -65504, 1e-8, 0]),
        np.float32([1e-30, 1e4, -3e-5]),
        np.append(np.zeros(2000, np.float32), np.float32(1)),  # its root mean square has 45 steps
    ],
    ids=["zeros", "zero", "tiny", "large", "both", "spread", "outlier"],
)
def test_plain_tensors_of_extreme_size(values):
    decoded = decode(message({"w": values})).tensors["w"]
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - values).max() <= 0.008 * np.abs(values).max() + 1e-14
    assert not decoded[values == 0].any()


def test_plain_and_stepped_tensors_in_one_message():
    tensors = {
        "a": np.linspace(-1, 1, 50, dtype=np.float32).reshape(5, 10),
        "b": stepped_tensor(np.arange(-6, 6).reshape(3, 4), exponent=-7, rows=[4, 0, 2]),
        "c": np.float16([0.5, 0.25]),
    }
    decoded = decode(message(tensors)).tensors
    assert list(decoded) == ["a", "b", "c"]
    assert np.array_equal(decoded["b"].ravel(), tensors["b"].values())
    for name in "ac":
        assert np.array_equal(decoded[name].ravel(), round_plainly(tensors[name]).values())


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (np.float32([1, np.nan]), "tensor 'w' holds a NaN"),
        (np.float32([[np.inf]]), "tensor 'w' holds an infinity"),
        (np.float32([7e4]), "tensor 'w' holds 70000; expected magnitudes"),
        (np.zeros((0, 3), np.float32), "tensor 'w' is empty"),
        (np.arange(3), "tensor 'w' is int64; expected a float32 or float16 array"),
        (np.zeros(3), "tensor 'w' is float64"),
    ],
)
def test_tensors_that_cannot_be_coded(tensor, match):
    with pytest.raises(InputError, match=match) as error:
        message({"w": tensor})
    assert "\n" not in str(error.value)


def test_no_tensors_and_unknown_options():
    with pytest.raises(InputError, match="no tensors to encode"):
        message({})
    with pytest.raises(InputError, match="codec 'sequential' has no option 'bits'; expected one of none"):
        encode({"w": np.ones(3, np.float32)}, {}, codec={**CODEC, "bits": 3.0})


def test_many_equal_values_are_refused():
    """A few bytes must not fill a decoder's memory: the limit of every message."""
    layout = [["w", [1 << 30]]]
    check_refused_in_little_memory(
        forge({"codec": CODEC, "config": {}, "layout": layout}, bytes(8)), "states 1073741824 values in"
    )


# ---------------------------------------------------------------- messages that no encoder wrote


def forged(layout, content):
    return forge({"codec": CODEC, "config": {}, "layout": layout}, content)


@functools.cache
def sample():
    """A message of three tensors, its layout, the bytes of its numbers, and its values."""
    rng = np.random.default_rng(7)
    tensors = {
        "a": stepped_tensor(
            np.rint(rng.normal(0, 3, (34, 40))), exponent=-30, rows=rng.permutation(34), columns=np.arange(40)
        ),
        "b": stepped_tensor(rng.integers(-2, 3, (1, 9)), (9,), exponent=3),
        "c": stepped_tensor(np.zeros((2, 4)), (2, 2, 2)),
    }
    data, layout = message(tensors), [[name, list(field.shape)] for name, field in tensors.items()]
    content = body(tensors)
    assert forged(layout, content) == data and body_of(data).endswith(content)
    return data, layout, content, said(data)


def said(data):
    """What a message says, to compare: numbers by their bits."""
    decoded = decode(data)
    tensors = [(name, value.shape, value.tobytes()) for name, value in decoded.tensors.items()]
    return decoded.config, decoded.codec, tensors


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_no_other_bytes_say_the_same(data):
    """Any bytes are changed, and the checksum made right: refused in one line, or another model."""
    changed, *_, values = sample()
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(changed) - 5))
        change = data.draw(st.integers(1, 255))
        changed = repaired(changed, position, changed[position] ^ change)
    try:
        other = said(changed)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert changed == sample()[0] or other != values


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=80), st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
def test_any_words_are_numbers_or_refused(content, shapes):
    data = forged([[f"t{i}", list(shape)] for i, shape in enumerate(shapes)], content)
    try:
        decoded = decode(data)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert [value.shape for value in decoded.tensors.values()] == shapes
        assert all(np.isfinite(value).all() for value in decoded.tensors.values())


def test_every_cut_and_every_addition_is_refused():
    _, layout, content, _ = sample()
    for stop in range(0, len(content), 56):
        check_refused(forged(layout, content[:stop]), "corrupt message|states")
    for more in (bytes(4), b"\xff" * 4, bytes(8), content[:4]):
        check_refused(forged(layout, content + more), "its content is not what its encoder writes")
    for stop in (len(content) - 1, len(content) - 3, 2):
        expected = f"the coded numbers have {stop} bytes; expected a multiple of 4"
        check_refused(forged(layout, content[:stop]), expected)


def test_words_that_fit_no_density():
    """The coder knows some words that are not in any of its intervals."""
    check_refused(forged([["w", [40]]], b"\xff" * 40), "invalid for the employed entropy model|not what")
    refused = 0
    for seed in range(12):
        content = np.random.default_rng(seed).bytes(400)
        try:
            decode(forged([["w", [33, 33]]], content))
        except InputError as error:
            refused += "entropy model" in str(error) or "exponents of steps" in str(error)
    assert refused > 0


def written(fields, most):
    """The bytes of fields as a `MatrixCoder` writes them, also those that it must not be given."""
    encoder = constriction.stream.queue.RangeEncoder()
    put_even(encoder, most, 1, 32767)
    coder = MatrixCoder(most)
    for field in fields:
        coder.encode(encoder, field)
    return encoder.get_compressed().astype("<u4").tobytes()


@pytest.mark.parametrize(
    ("rows", "columns", "stated"),
    [
        ([1, 2, 3], None, "1 to 3"),
        (None, [2, 2, 2, 2], "2 to 2"),
        ([0, 0, 128], None, "0 to 128"),
        ([-5, 0, 5], None, "-5 to 5"),
    ],
)
def test_exponents_that_say_the_same_as_others(rows, columns, stated):
    field = stepped_tensor(np.ones((3, 4)), rows=rows, columns=columns)
    check_refused(forged([["w", [3, 4]]], written([field], 1)), f"exponents of steps from {stated}; expected")


def test_a_largest_number_that_does_not_occur():
    field = stepped_tensor([[3, -2, 0], [1, 1, 1]])
    assert decode(forged([["w", [2, 3]]], written([field], 3))).tensors["w"].ravel().tolist() == [
        *(3, -2, 0, 1, 1, 1)
    ]
    for most in (4, 32767):
        check_refused(forged([["w", [2, 3]]], written([field], most)), "not what its encoder writes")
    zeros = stepped_tensor(np.zeros((2, 3)))
    assert body({"w": zeros}) == written([zeros], 1)
    check_refused(forged([["w", [2, 3]]], written([zeros], 2)), "not what its encoder writes")


def test_steps_that_are_said_to_differ_and_do_not():
    """The flag is 1, and then all exponents are 0."""
    encoder = constriction.stream.queue.RangeEncoder()
    for value, low, high in ((1, 1, 32767), (0, -400, 60), (0, -24, 40), (1, 0, 1), (0, 0, 127)):
        put_even(encoder, value, low, high)
    coder = MatrixCoder(1)
    coder._sides["steps"].encode(encoder, np.zeros(2, int))
    put_even(encoder, 0, 0, 1)
    coder._learner(0).encode(encoder, np.ones(6, int))
    content = encoder.get_compressed().astype("<u4").tobytes()
    field = fields_of(content, [("w", (2, 3))])[0]
    assert same_field(field, stepped_tensor(np.ones((2, 3))))
    check_refused(forged([["w", [2, 3]]], content), "its content is not what its encoder writes")


def test_classes_other_than_those_of_the_numbers():
    """A class of the tensor that its numbers do not have, which only another code would notice."""
    for own in (-24, -1, 1, 40):
        encoder = constriction.stream.queue.RangeEncoder()
        for value, low, high in ((1, 1, 32767), (0, -400, 60), (own, -24, 40), (0, 0, 1), (0, 0, 1)):
            put_even(encoder, value, low, high)
        MatrixCoder(1)._learner(own).encode(encoder, np.ones(6, int))
        content = encoder.get_compressed().astype("<u4").tobytes()
        assert same_field(fields_of(content, [("w", (2, 3))])[0], stepped_tensor(np.ones((2, 3))))
        check_refused(forged([["w", [2, 3]]], content), "its content is not what its encoder writes")
