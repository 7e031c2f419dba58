"""Scalar quantizers: against the published quantizer on real GPT-2 tensors, and their properties on any
vector."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenbounds.codecs import scalar as quantize
from tokenbounds.codecs.scalar import kmeans_levels, uniform_levels
from tokenbounds.errors import InputError

ROWS = json.loads((Path(__file__).parents[2] / "vectors" / "quantize.json").read_text())["rows"]
QUANTIZERS = [uniform_levels, kmeans_levels]

vectors = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.one_of(
        st.floats(-65504, 65504, width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30])
    ),
)
level_numbers = st.integers(2, 300)


def mean_squared_error(vector, symbols, codebook):
    return np.mean((np.asarray(vector, np.float64).ravel() - codebook[symbols].astype(np.float64)) ** 2)


def check_contract(vector, levels, symbols, codebook):
    assert symbols.shape == (vector.size,)
    assert symbols.dtype == (np.uint8 if codebook.size <= 256 else np.uint16)
    assert codebook.dtype == np.float16
    assert 1 <= codebook.size <= levels
    assert (np.diff(codebook.astype(np.float64)) > 0).all()
    assert not np.signbit(codebook[codebook == 0]).any()
    assert np.array_equal(np.unique(symbols), np.arange(codebook.size))  # every codeword is used


@pytest.fixture(scope="module")
def gpt2_tensor(shared):
    return lambda row: np.fromfile(shared / "data/models/gpt2_124M_decoder1" / row["file"], ">f4")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['file']}-{row['levels']}")
def test_published_quantizer_on_gpt2(row, gpt2_tensor):
    """Same error and same number of distinct values as the published quantizer; the tolerance is for summing
    squares in another order."""
    vector = gpt2_tensor(row)
    symbols, codebook = uniform_levels(vector, row["levels"])
    check_contract(vector, row["levels"], symbols, codebook)
    assert codebook.size == row["unique"]
    assert mean_squared_error(vector, symbols, codebook) == pytest.approx(row["mse"], rel=1e-10)
    assert mean_squared_error(vector, *kmeans_levels(vector, row["levels"])) <= row["mse"] * (1 + 1e-12)


def test_uniform_bins_by_hand():
    # bins of width 2/4 over [-1, 1]: the third is empty, and the first holds the mean of -1 and -0.75
    symbols, codebook = uniform_levels(np.array([-1.0, -0.75, -0.25, 1.0], np.float32), 4)
    assert codebook.tolist() == [-0.875, -0.25, 1.0]
    assert symbols.tolist() == [0, 0, 1, 2]


def test_kmeans_finds_separated_clusters():
    rng = np.random.default_rng(3)
    centres = np.array([-7.0, -6.0, 0.0, 0.25, 9.0])
    vector = (rng.choice(centres, 5000, p=[0.6, 0.1, 0.1, 0.1, 0.1]) + rng.uniform(-0.01, 0.01, 5000)).astype(
        np.float32
    )
    _, codebook = kmeans_levels(vector, 5)
    assert np.allclose(codebook, centres, atol=0.005)  # float16 steps of 9 are 1/128


def test_kmeans_near_the_panter_dite_limit():
    """Many levels on a Gaussian: the best quantizer has an error of sqrt(3) pi / 2 σ² / K² (Panter and Dite
    1951)."""
    vector = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    levels = 1000
    error = mean_squared_error(vector, *kmeans_levels(vector, levels))
    assert error == pytest.approx(
        np.sqrt(3) * np.pi / 2 / levels**2, rel=0.1
    )  # centres fitted to 300 values each fit them a little better


def test_kmeans_drops_a_centre_that_rounding_to_float16_leaves_without_values():
    # float16 steps are 2 here: the centre of 2051 becomes 2052, and 2051 is then coded by 2050, no further
    # from it
    vector = np.array([2051.0, 2049.25, 2050.0, 2048.125, 2049.375, 2048.5, 2048.875, 2048.375], np.float32)
    symbols, codebook = kmeans_levels(vector, 4)
    check_contract(vector, 4, symbols, codebook)
    assert codebook.tolist() == [2048.0, 2050.0]


@settings(deadline=None)
@given(vectors, level_numbers)
def test_any_vector(vector, levels):
    errors = []
    for quantizer in QUANTIZERS:
        symbols, codebook = quantizer(vector, levels)
        check_contract(vector, levels, symbols, codebook)
        again = quantizer(vector, levels)
        assert np.array_equal(symbols, again[0])
        assert codebook.tobytes() == again[1].tobytes()
        errors.append(mean_squared_error(vector, symbols, codebook))
    # k-means compares candidates by float64 prefix sums, whose rounding is relative to the sum of squares
    assert errors[1] <= errors[0] + 1e-12 * np.mean(vector.astype(np.float64) ** 2)


@settings(deadline=None)
@given(vectors, level_numbers)
def test_kmeans_codes_every_value_by_its_nearest_codeword(vector, levels):
    symbols, codebook = kmeans_levels(vector, levels)
    values, codewords = vector.astype(np.float64), codebook.astype(np.float64)
    distance = np.abs(values[:, None] - codewords)
    chosen = distance[np.arange(vector.size), symbols]
    assert (chosen <= distance.min(axis=1) + 1e-7 * np.abs(codewords).max()).all()  # midpoints are float32


@settings(deadline=None)
@given(vectors, level_numbers)
def test_kmeans_keeps_few_distinct_values(vector, levels):
    vector = vector.astype(np.float16)
    distinct = np.unique(vector)[:levels]
    vector = distinct[np.searchsorted(distinct, vector).clip(max=distinct.size - 1)]
    symbols, codebook = kmeans_levels(vector, levels)
    assert np.array_equal(codebook[symbols], vector)


@settings(deadline=None)
@given(vectors, level_numbers)
def test_uniform_error_is_within_a_bin(vector, levels):
    symbols, codebook = uniform_levels(vector, levels)
    largest = float(np.abs(vector).max())
    width = 2 * (largest + 1e-6) / levels
    rounding = np.abs(codebook.astype(np.float64)) * 2**-11 + 2**-25
    assert (
        np.abs(vector.astype(np.float64) - codebook[symbols])
        <= width * (1 + 1e-9) + rounding[symbols] * (1 + 1e-3)
    ).all()


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -65504.0, 1e-30])
def test_equal_values(quantizer, value):
    symbols, codebook = quantizer(np.full(5, value, np.float32), 11)
    assert symbols.tolist() == [0] * 5
    assert codebook.tobytes() == (np.array([value], np.float16) + np.float16(0)).tobytes()


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_shapes_and_types_are_flattened(quantizer):
    vector = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    expected = quantizer(vector.ravel(), 5)
    for same in (vector, np.asfortranarray(vector), vector.astype(">f4"), vector.astype(np.float64)):
        symbols, codebook = quantizer(same, 5)
        assert np.array_equal(symbols, expected[0])
        assert np.array_equal(codebook, expected[1])
    assert quantizer(np.float32(2.0), 2)[1].tolist() == [2.0]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_most_levels(quantizer):
    vector = np.random.default_rng(1).uniform(-1, 1, 100_000).astype(np.float32)
    symbols, codebook = quantizer(vector, 65536)
    check_contract(vector, 65536, symbols, codebook)
    assert codebook.size > 256


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_chunks_do_not_show(quantizer, monkeypatch):
    vector = (
        np.random.default_rng(1).integers(-500, 500, 1000).astype(np.float32) / 64
    )  # sums are exact in any order
    whole = quantizer(vector, 11)
    monkeypatch.setattr(quantize, "_CHUNK", 7)
    parts = quantizer(vector, 11)
    assert np.array_equal(whole[0], parts[0])
    assert np.array_equal(whole[1], parts[1])


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([], "vector is empty; expected at least one value"),
        ([1.0, np.nan], "vector holds a NaN"),
        ([np.nan, np.inf], "vector holds a NaN"),
        ([1.0, np.inf], "vector holds an infinity"),
        ([-np.inf, 2.0], "vector holds an infinity"),
        (
            [1.0, -65505.0],
            "vector holds -65505; expected magnitudes within the float16 range of the codebook, 65504",
        ),
        ([1e300, 0.0], r"vector holds 1e\+300; expected"),
        (["a"], "vector has the type <U1; expected real numbers"),
        ([1j], "vector has the type complex128; expected real numbers"),
    ],
)
def test_bad_vectors(quantizer, vector, message):
    with pytest.raises(InputError, match=message):
        quantizer(np.array(vector), 11)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("levels", [1, 0, -3, 65537, 2.0, "11", True, None])
def test_bad_levels(quantizer, levels):
    with pytest.raises(InputError, match=f"levels is {levels!r}; expected an integer from 2 to 65536"):
        quantizer(np.zeros(3, np.float32), levels)


def test_repeated_float16_values_are_kept():
    """NumPy 2.4.6 sorts such an array wrongly as float16 where the processor has AVX-512."""
    values = np.array([-0.33520508, -0.09350586, 0.09283447, 0.34228516], np.float16)
    vector = values.repeat([206, 1280, 1413, 173]).astype(np.float32)
    symbols, codebook = kmeans_levels(vector, 4)
    assert np.array_equal(codebook, values)
    assert np.array_equal(codebook[symbols], vector)
