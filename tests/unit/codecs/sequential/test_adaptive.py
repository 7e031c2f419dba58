"""Range coding with models that learn: any integers come back, at nearly the length of the best fixed model,
and how they are divided among calls does not matter."""

import itertools
import math

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbounds.codecs.sequential.adaptive import CLASSES, Learner, get_even, prior, put_even

MOST = (1, 2, 7, 300, 32767)


def coded(integers, scale_class, most, cuts=()):
    """Words of integers, divided among several calls at `cuts`."""
    encoder, learner = constriction.stream.queue.RangeEncoder(), Learner(scale_class, most)
    for part in np.split(np.asarray(integers, np.int64), cuts):
        learner.encode(encoder, part)
    return encoder.get_compressed()


def decoded(words, size, scale_class, most, cuts=()):
    decoder, learner = constriction.stream.queue.RangeDecoder(words), Learner(scale_class, most)
    stops = [0, *cuts, size]
    parts = [learner.decode(decoder, stop - start) for start, stop in itertools.pairwise(stops)]
    return np.concatenate(parts)


# ---------------------------------------------------------------- prior


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize("scale_class", [CLASSES[0], -9, 0, 7, CLASSES[-1]])
def test_prior_is_whole_numbers_symmetric_and_falling(scale_class, most):
    weights = prior(scale_class, most)
    assert weights.dtype.kind == "i" and weights.shape == (2 * most + 1,)
    assert weights.min() >= 1
    assert np.array_equal(weights, weights[::-1])
    assert (np.diff(weights[: most + 1]) >= 0).all()
    assert (1 << 20) - weights.size <= weights.sum() <= (1 << 20) + weights.size


@pytest.mark.parametrize("scale_class", [0, 4, 8, 13, 20, 26])
def test_prior_has_the_mean_size_of_its_class(scale_class):
    """But for the weight of 1 that every number has."""
    weights, numbers = prior(scale_class, 4000) - 1, np.abs(np.arange(-4000, 4001))
    assert (weights * numbers).sum() / weights.sum() == pytest.approx(2 ** (scale_class / 4), rel=0.1)


def test_priors_go_from_zeros_to_even_weights():
    shares = [prior(scale_class, 5)[5] / prior(scale_class, 5).sum() for scale_class in CLASSES]
    assert (np.diff(shares) < 1e-6).all()
    assert shares[0] > 0.9999 and shares[-1] == pytest.approx(1 / 11, rel=1e-3)


# ---------------------------------------------------------------- round trips


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_integers_come_back(data):
    most, scale_class = data.draw(st.sampled_from(MOST)), data.draw(st.sampled_from(CLASSES))
    values = st.integers(-most, most) | st.sampled_from([-most, 0, most])
    integers = data.draw(st.lists(values, max_size=150))
    result = decoded(coded(integers, scale_class, most), len(integers), scale_class, most)
    assert result.dtype == np.int32 and result.tolist() == integers


@pytest.mark.parametrize("most", [1, 50, 32767])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 1000, 4099])
def test_sizes_around_changes_of_the_model(size, most):
    integers = np.random.default_rng(size).integers(-most, most + 1, size)
    assert np.array_equal(decoded(coded(integers, 3, most), size, 3, most), integers)


@pytest.mark.parametrize("value", [-32767, 0, 32767])
def test_a_single_value_becomes_cheap(value):
    """The first numbers cost what the prior says, at most 20 bits and some; the last of 10,000 next to
    nothing."""
    words = coded(np.full(10_000, value), -24, 32767)
    assert np.array_equal(decoded(words, 10_000, -24, 32767), np.full(10_000, value))
    assert 32 * len(words) < 16 * 24 + 1000


def test_integers_of_several_learners_in_one_stream():
    """Interleaved, as the classes of a matrix are."""
    rng, encoder = np.random.default_rng(4), constriction.stream.queue.RangeEncoder()
    parts = [(rng.integers(-most, most + 1, size), most) for most, size in ((9, 40), (200, 3), (9, 77))] * 3
    learners = {9: Learner(2, 9), 200: Learner(20, 200)}
    for integers, most in parts:
        put_even(encoder, len(integers), 0, 99)
        learners[most].encode(encoder, integers)
    decoder = constriction.stream.queue.RangeDecoder(encoder.get_compressed())
    learners = {9: Learner(2, 9), 200: Learner(20, 200)}
    for integers, most in parts:
        assert np.array_equal(learners[most].decode(decoder, get_even(decoder, 0, 99)), integers)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 700), max_size=6), st.lists(st.integers(0, 700), max_size=6))
def test_calls_do_not_show(cuts, other):
    integers = np.random.default_rng(5).integers(-20, 21, 700)
    words = coded(integers, 9, 20)
    assert coded(integers, 9, 20, sorted(cuts)).tobytes() == words.tobytes()
    assert np.array_equal(decoded(words, 700, 9, 20, sorted(other)), integers)


def test_learners_do_not_share_what_they_learn():
    before = prior(5, 30).copy()
    words = coded(np.full(500, 30), 5, 30)
    assert np.array_equal(prior(5, 30), before)
    assert coded(np.full(500, 30), 5, 30).tobytes() == words.tobytes()


# ---------------------------------------------------------------- length


def gaussian_integers(deviation, size):
    """Rounded Gaussian numbers, and the entropy of one of them in bits."""
    numbers = np.rint(np.random.default_rng(1).normal(0, deviation, size)).astype(int)
    ks = np.arange(-200, 201)
    edges = [math.erf((k + half) / deviation / math.sqrt(2)) / 2 for k in ks for half in (-0.5, 0.5)]
    shares = np.diff(np.reshape(edges, (-1, 2)), axis=1)[:, 0]
    return numbers, entropy(shares)


def geometric_integers(ratio, size):
    """Two-sided geometric numbers, of probability proportional to ratio^|k|, and the entropy of one."""
    shares = ratio ** np.abs(np.arange(-200, 201))
    shares /= shares.sum()
    numbers = np.random.default_rng(2).choice(np.arange(-200, 201), size=size, p=shares)
    return numbers, entropy(shares)


def entropy(shares):
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def class_of(numbers):
    return round(4 * math.log2(np.abs(numbers).mean()))


@pytest.mark.parametrize(
    ("numbers", "bits"),
    [gaussian_integers(deviation, 30_000) for deviation in (0.4, 1.0, 3.0, 15.0)]
    + [geometric_integers(ratio, 30_000) for ratio in (0.1, 0.5, 0.9)],
    ids=["gauss-.4", "gauss-1", "gauss-3", "gauss-15", "geometric-.1", "geometric-.5", "geometric-.9"],
)
def test_length_is_that_of_the_entropy(numbers, bits):
    """Within 2%, although the model is learned from the numbers themselves, and even if the prior is eight
    times too wide."""
    most = int(np.abs(numbers).max())
    for scale_class in (class_of(numbers), class_of(numbers) + 12):
        length = 32 * len(coded(numbers, scale_class, most)) / len(numbers)
        assert 0.98 * bits < length < 1.02 * bits


@pytest.mark.parametrize("deviation", [1.0, 3.0, 15.0])
def test_few_numbers_cost_little_more(deviation):
    """200 numbers are nearly as short: the prior is no worse than 8%."""
    numbers, bits = gaussian_integers(deviation, 200)
    length = 32 * len(coded(numbers, class_of(numbers), 100)) / 200
    assert length < 1.08 * bits + 32 / 200


def test_a_change_of_the_numbers_is_learned():
    """Small numbers and then large ones, of other sizes than the prior's: far below their raw bits."""
    small, large = gaussian_integers(0.5, 5000)[0], gaussian_integers(20.0, 5000)[0] + 60
    assert 32 * len(coded(np.concatenate([small, large]), 0, 200)) < 0.7 * 10_000 * math.log2(401)


# ---------------------------------------------------------------- even integers


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-400, 60), (1, 32767), (0, 127), (-24, 40)])
def test_even_integers(low, high):
    values = [low, high, (low + high) // 2, low, high] * 40
    encoder = constriction.stream.queue.RangeEncoder()
    for value in values:
        put_even(encoder, value, low, high)
    words = encoder.get_compressed()
    decoder = constriction.stream.queue.RangeDecoder(words)
    assert [get_even(decoder, low, high) for _ in values] == values
    exact = len(values) * math.log2(high - low + 1)
    # 24 bits of probability do not divide by every number: the last integer has the remainder
    assert 0.97 * exact - 32 <= 32 * len(words) <= 1.01 * exact + 64
