"""Matrices of whole numbers times steps: values against exact arithmetic, codes that come back, and lengths
near the entropy of numbers whose size varies."""

import math
from fractions import Fraction

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sequential import field_bits, same_field, stepped_tensor

from tokenbounds.codecs.sequential import matrix
from tokenbounds.codecs.sequential.matrix import (
    LEAST_EXPONENT,
    MOST_EXPONENT,
    MOST_NUMBER,
    SPREAD,
    MatrixCoder,
    canonical,
    sides,
    step,
)
from tokenbounds.errors import InputError

# 2^(k/4), rounded to 10 binary places
QUARTERS = [Fraction(1), Fraction(1218, 1024), Fraction(1448, 1024), Fraction(1722, 1024)]


def exact_step(exponent):
    return QUARTERS[exponent % 4] * Fraction(2) ** (exponent // 4)


def rounded(value):
    """The float32 nearest to a Fraction, ties to even, as a Fraction."""
    if not value:
        return value
    size = abs(value)
    place = size.numerator.bit_length() - size.denominator.bit_length() - 24
    while size / Fraction(2) ** place >= 1 << 24:
        place += 1
    while size / Fraction(2) ** place < 1 << 23:
        place -= 1
    return round(value / Fraction(2) ** place) * Fraction(2) ** place


def exact_values(field):
    """The values as the format says, in Fractions: number times step of the row, rounded, times step of the
    column, rounded."""
    return [
        rounded(rounded(int(number) * exact_step(field.exponent + int(row))) * exact_step(int(column)))
        for numbers, row in zip(field.numbers, field.rows, strict=True)
        for number, column in zip(numbers, field.columns, strict=True)
    ]


def exponents(length):
    """Exponents of rows or columns: 0 to 127, and 0 for at least one."""
    return st.lists(st.integers(0, SPREAD), min_size=length, max_size=length).map(
        lambda found: [number - min(found) for number in found]
    )


@st.composite
def tensors(draw, lengths):
    rows, columns = (draw(st.sampled_from(lengths)) for _ in range(2))
    numbers = st.integers(-MOST_NUMBER, MOST_NUMBER) | st.integers(-3, 3)
    flat = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    return stepped_tensor(
        np.reshape(flat, (rows, columns)),
        exponent=draw(st.integers(LEAST_EXPONENT, MOST_EXPONENT)),
        rows=draw(exponents(rows)),
        columns=draw(exponents(columns)),
    )


# ---------------------------------------------------------------- values


def test_steps_are_quarter_powers_in_11_bits():
    numbers = np.arange(LEAST_EXPONENT, MOST_EXPONENT + 2 * SPREAD + 1)
    steps = step(numbers)
    assert steps.dtype == np.float32
    assert [Fraction(float(value)) for value in steps] == [exact_step(k) for k in numbers.tolist()]
    np.testing.assert_allclose(steps, 2.0 ** (numbers / 4), rtol=3e-4)
    mantissas = np.frexp(steps)[0] * 2048
    assert np.array_equal(mantissas, np.rint(mantissas))


@settings(deadline=None, max_examples=60)
@given(tensors(range(1, 7)))
def test_values_are_the_exact_products_rounded_twice(field):
    values = field.values()
    assert values.dtype == np.float32 and values.shape == (field.numbers.size,)
    assert [Fraction(float(value)) for value in values] == exact_values(field)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_values_do_not_depend_on_the_type_of_the_numbers(kind):
    field = stepped_tensor(np.arange(-30, 30).reshape(6, 10), exponent=-13, rows=[0, 1, 2, 3, 9, 5])
    other = matrix.Stepped(field.shape, field.numbers.astype(kind), field.exponent, field.rows, field.columns)
    assert other.values().dtype == np.float32
    assert np.array_equal(other.values(), field.values())


def test_no_value_leaves_the_normal_numbers():
    largest = stepped_tensor([[MOST_NUMBER, 0], [0, -MOST_NUMBER]], None, MOST_EXPONENT, [0, 127], [0, 127])
    assert np.isfinite(largest.values()).all()
    least = float(np.abs(stepped_tensor([[1, -1]], exponent=LEAST_EXPONENT).values()).min())
    assert least == 2.0**-100 > np.finfo(np.float32).tiny


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((7,), (1, 7)), ((3, 5), (3, 5)), ((3, 5, 2), (3, 10)), ((4, 1, 1, 6), (4, 6))],
)
def test_sides(shape, expected):
    assert sides(shape) == expected


# ---------------------------------------------------------------- codes


def coded(fields, most=MOST_NUMBER):
    encoder, coder = constriction.stream.queue.RangeEncoder(), MatrixCoder(most)
    for field in fields:
        coder.encode(encoder, field)
    return encoder.get_compressed()


def decoded(words, shapes, most=MOST_NUMBER):
    decoder, coder = constriction.stream.queue.RangeDecoder(words), MatrixCoder(most)
    return [coder.decode(decoder, shape) for shape in shapes]


@settings(deadline=None, max_examples=15)
@given(st.lists(tensors([1, 2, 31, 32, 40]), min_size=1, max_size=3))
def test_matrices_come_back(fields):
    """With and without classes of rows and columns, which those of at least 32 numbers have."""
    fields = [canonical(field) for field in fields]
    words = coded(fields)
    back = decoded(words, [field.shape for field in fields])
    assert all(same_field(*pair) for pair in zip(fields, back, strict=True))
    assert all(field.numbers.dtype == np.int16 for field in back)
    assert coded(back).tobytes() == words.tobytes()


@pytest.mark.parametrize("strip", [1, 39, 40, 41, 500, 1 << 22])
def test_strips_of_rows(monkeypatch, strip):
    rng = np.random.default_rng(1)
    spread = np.exp(rng.normal(0, 1.5, (50, 1)) + rng.normal(0, 1.5, 40))
    field = stepped_tensor(
        np.rint(rng.normal(0, spread)).clip(-999, 999), exponent=-9, columns=np.arange(40) % 9
    )
    whole = field_bits(field)
    monkeypatch.setattr(matrix, "_STRIP", strip)
    back = decoded(coded([field], 999), [field.shape], 999)[0]
    assert same_field(field, back)
    # other orders of the same numbers in the same classes
    assert field_bits(field) == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize(
    ("rows", "stated"), [([1, 3, 2], "1 to 3"), ([0, 128, 5], "0 to 128"), ([-1, 0, 4], "-1 to 4")]
)
def test_exponents_that_no_encoder_writes(rows, stated):
    field = stepped_tensor(np.ones((3, 4)), rows=rows)
    expected = f"^exponents of steps from {stated}; expected 0 to at most 127$"
    with pytest.raises(InputError, match=expected):
        decoded(coded([field]), [(3, 4)])


@pytest.mark.parametrize(
    ("numbers", "exponent", "rows", "columns", "expected"),
    [
        ([[0, 0], [0, 0]], 7, [3, 0], [0, 9], (0, [0, 0], [0, 0])),
        ([[1, 2], [0, 0], [3, 4]], -5, [4, 90, 0], [0, 1], (-5, [4, 4, 0], [0, 1])),  # a row of zeros
        ([[1, 2], [0, 0], [3, 4]], -5, [4, 0, 7], [0, 1], (-1, [0, 3, 3], [0, 1])),  # that had the least
        ([[1, 0, 2]], 3, [0], [8, 0, 12], (11, [0], [0, 4, 4])),  # a column that had it
    ],
)
def test_the_one_form_of_steps(numbers, exponent, rows, columns, expected):
    """Steps of zeros follow from the others, whatever they were; values stay."""
    field = stepped_tensor(np.array(numbers), exponent=exponent, rows=rows, columns=columns)
    form = canonical(field)
    assert (form.exponent, form.rows.tolist(), form.columns.tolist()) == expected
    assert form.values().tobytes() == field.values().tobytes()
    assert canonical(form).rows.tolist() == form.rows.tolist()
    back = decoded(coded([form]), [field.shape])[0]
    assert same_field(back, form)
    if (exponent, list(rows), list(columns)) != expected:
        with pytest.raises(InputError, match="steps of zeros are not the median of the others"):
            decoded(coded([field]), [field.shape])


def test_class_of_a_size():
    ratios = [2.0 ** (k / 4) for k in range(-31, 40)]
    assert matrix._class_of(np.array(ratios)).tolist() == list(range(-31, 40))
    for k in range(-31, 40):
        meeting = 2 ** ((k + 0.5) / 4)
        assert matrix._class_of(np.array([0.999 * meeting, 1.001 * meeting])).tolist() == [k, k + 1]
    assert matrix._class_of(np.array([0.0, 1e-9, 1e9])).tolist() == [-32, -32, 40]


# ---------------------------------------------------------------- lengths


def entropy_of_gaussian(deviation):
    """Entropy in bits of a rounded Gaussian number."""
    edges = (np.arange(-400, 402) - 0.5) / deviation / math.sqrt(2)
    shares = np.diff([math.erf(edge) / 2 for edge in edges])
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def scaled_matrix(size, rows=1.0, columns=1.0, seed=0):
    """Rounded Gaussian numbers of other deviations in each row and column, and their entropy in all."""
    rng = np.random.default_rng(seed)
    deviations = 2.5 * 2.0 ** (rng.uniform(-rows, rows, (size, 1)) + rng.uniform(-columns, columns, size))
    numbers = np.rint(rng.normal(0, deviations))
    table = {value: entropy_of_gaussian(value) for value in np.unique(np.round(deviations, 2)) if value}
    return stepped_tensor(numbers), sum(table.get(value, 0.0) for value in np.round(deviations, 2).ravel())


@pytest.mark.parametrize(("rows", "columns"), [(0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (1.5, 1.5)])
def test_numbers_of_varying_size_cost_their_entropy(rows, columns):
    """Within 4%: the classes of 160 rows and 160 columns are in the message too."""
    field, bits = scaled_matrix(160, rows, columns)
    assert 0.99 * bits < field_bits(field) < 1.04 * bits


def test_one_model_for_all_numbers_would_cost_more():
    field, _ = scaled_matrix(160, 2.0, 2.0)
    counts = np.unique(field.numbers, return_counts=True)[1]
    together = -(counts * np.log2(counts / counts.sum())).sum()
    assert field_bits(field) < 0.9 * together


def test_what_is_learned_from_one_tensor_serves_the_next():
    """Numbers of a distribution that is no prior's."""
    rng = np.random.default_rng(3)
    fields = [stepped_tensor(rng.choice([-9, 2, 9], size=(20, 20))) for _ in range(2)]
    one, both = (32 * len(coded(part, 9)) for part in (fields[:1], fields))
    assert both - one < one - 150


def test_a_large_step_makes_small_numbers():
    """Classes of columns that follow from their steps cost nearly nothing beside these."""
    rng = np.random.default_rng(2)
    steps = rng.integers(0, 30, 64)
    follow = stepped_tensor(np.rint(rng.normal(0, 40.0 * 2 ** (-steps / 4), (400, 64))), columns=steps)
    shuffled = stepped_tensor(follow.numbers, columns=rng.permutation(steps))
    assert field_bits(follow) < field_bits(shuffled) - 64
