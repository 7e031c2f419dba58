"""Sequential rounding: the weighted error is the stated one, below that of plain rounding, and on real
weights below that of the other codecs at equal length."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.lattice import correlated_hessian, gaussian
from support.sequential import body, field_bits

from tokenbounds.codecs.frame import decode, encode
from tokenbounds.codecs.lattice import quantize_linear, reconstruct
from tokenbounds.codecs.sequential import rounding
from tokenbounds.codecs.sequential.rounding import exponents_of, feedback, round_plainly, stepped
from tokenbounds.errors import InputError


def float_tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def values_of(field):
    return field.values().reshape(field.numbers.shape).astype(np.float64)


def weighted_error(weight, values, hessian, rows=None):
    """The sum over rows of g_i (w_i - w^_i) H (w_i - w^_i)^T, in float64."""
    error = np.asarray(weight, np.float64) - np.asarray(values, np.float64)
    rows = np.ones(len(error)) if rows is None else rows
    return float((rows[:, None] * (error @ hessian) * error).sum())


# ---------------------------------------------------------------- feedback


@pytest.mark.parametrize(("size", "damping"), [(1, 0.01), (5, 0.01), (70, 0.0), (70, 0.3)])
def test_feedback_is_the_upper_factor_of_the_inverse(size, damping):
    hessian = torch.from_numpy(correlated_hessian(size))
    upper = feedback(hessian, damping)
    assert upper.dtype == torch.float32 and torch.equal(upper, upper.triu())
    assert (upper.diagonal() > 0).all()
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(size)
    identity = upper.double().T @ upper.double() @ damped
    torch.testing.assert_close(identity, torch.eye(size, dtype=torch.float64), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("hessian", "damping", "match"),
    [
        (torch.zeros(4, 4), 0.01, r"^matrix: the second moments .* are singular \(mean square 0, damping 0"),
        (torch.ones(4, 4), 0.0, "are singular"),
        (-torch.eye(4), 0.01, "are singular"),
        (torch.eye(4) * math.nan, 0.01, "^matrix: second moments of its inputs are not finite"),
        (torch.full((4, 4), math.inf), 0.01, "are not finite"),
    ],
)
def test_moments_that_give_no_feedback(hessian, damping, match):
    with pytest.raises(InputError, match=match) as error:
        feedback(hessian, damping)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"^tensor 'w': "):
        feedback(hessian, damping, "tensor 'w'")


def test_damping_makes_moments_of_few_directions_regular():
    x = torch.from_numpy(gaussian(3, 40))
    with pytest.raises(InputError, match="singular"):
        feedback(x.T @ x - 1e-9 * torch.eye(40), 0.0)
    assert feedback(x.T @ x, 0.01).isfinite().all()


# ---------------------------------------------------------------- rounding


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 200])
def test_independent_inputs_are_rounded_plainly(columns):
    weight, rows = float_tensor(gaussian(6, columns)), torch.linspace(0.1, 0.9, 6)
    steps = torch.full((columns,), 0.5)
    upper = feedback(torch.eye(columns), 0.0)
    with_feedback, plain = (stepped(weight, part, rows, steps) for part in (upper, None))
    assert np.array_equal(with_feedback.numbers, plain.numbers)
    size = 2 ** ((plain.exponent + plain.rows[:, None] + plain.columns) / 4)
    assert (np.abs(values_of(plain) - weight.numpy()) <= 0.501 * size).all()


@pytest.mark.parametrize("columns", [20, 64, 65, 200])
def test_feedback_lowers_the_error_of_the_output(columns):
    weight, hessian = float_tensor(gaussian(30, columns)), correlated_hessian(columns)
    upper = feedback(torch.from_numpy(hessian), 0.0)
    steps = torch.ones(30), torch.full((columns,), 0.4)
    errors = [
        weighted_error(weight, values_of(stepped(weight, part, *steps)), hessian) for part in (upper, None)
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("columns", [40, 64, 131])
def test_the_error_is_the_sum_over_columns(columns):
    """The equation of the module's docstring, with the errors e_ij computed one column after the other, in
    float64, from the values that come out."""
    weight, hessian = float_tensor(gaussian(12, columns)), correlated_hessian(columns)
    upper = feedback(torch.from_numpy(hessian), 0.0)
    rows = np.exp(gaussian(12, seed=3))
    field = stepped(weight, upper, torch.from_numpy(rows**-0.5), 0.3 * upper.diagonal())
    values, u = values_of(field), upper.double().numpy()
    left, errors = weight.double().numpy(), np.empty((12, columns))
    for j in range(columns):
        errors[:, j] = (left[:, j] - values[:, j]) / u[j, j]
        left = left - errors[:, j : j + 1] * u[j]
    expected = float((rows[:, None] * errors**2).sum())
    assert weighted_error(weight, values, hessian, rows) == pytest.approx(expected, rel=1e-3)
    # each rounding error is at most half a step, which is proportional to U_jj / sqrt(g_i)
    assert (rows[:, None] * errors**2).max() <= (0.3 / 2 * 2**0.25) ** 2 * 1.01
    assert expected == pytest.approx(12 * columns * 0.3**2 / 12, rel=0.15)


def test_blocks_do_not_show(monkeypatch):
    weight, hessian = float_tensor(gaussian(10, 150)), torch.from_numpy(correlated_hessian(150))
    upper = feedback(hessian)
    steps = torch.ones(10), 0.2 * upper.diagonal()
    fields = []
    for block in (7, 64, 150):
        monkeypatch.setattr(rounding, "_BLOCK", block)
        fields.append(stepped(weight, upper, *steps))
    same = [np.mean(field.numbers == fields[0].numbers) for field in fields]
    assert min(same) > 0.98  # a near tie may fall otherwise, and the columns after it follow


def test_the_weight_is_not_changed():
    weight = float_tensor(gaussian(4, 80))
    before = weight.clone()
    stepped(weight, feedback(torch.from_numpy(correlated_hessian(80))), torch.ones(4), torch.ones(80))
    assert torch.equal(weight, before)


# ---------------------------------------------------------------- steps


def test_steps_are_rounded_to_quarter_powers():
    exponents = torch.arange(-60, 60)
    assert exponents_of(2.0 ** (exponents / 4)).tolist() == exponents.tolist()
    for factor in (2**-0.12, 2**0.12):
        assert exponents_of(factor * 2.0 ** (exponents / 4)).tolist() == exponents.tolist()


def test_rows_and_columns_of_steps():
    rows, columns = torch.tensor([1.0, 4.0, 0.5]), torch.tensor([2.0, 2.0, 16.0, 2.4])
    field = stepped(torch.ones(3, 4), None, rows, columns)
    assert field.exponent == 0 and field.shape == (3, 4)
    assert field.rows.tolist() == [4, 12, 0] and field.columns.tolist() == [0, 0, 12, 1]
    assert field.numbers.dtype == np.int8
    assert field.numbers.tolist() == np.rint(1 / np.outer(rows, [2, 2, 16, 2.4])).astype(int).tolist()


@pytest.mark.parametrize("most", [1, 127, 128, 4000])
def test_small_numbers_take_one_byte(most):
    """And have the same code as in two."""
    field = stepped(torch.tensor([[1.0, -most, 0.0, 0.7 * most]]), None, torch.ones(1), torch.ones(4))
    assert field.numbers.dtype == (np.int8 if most <= 127 else np.int16)
    assert field.numbers.tolist() == [[1, -most, 0, round(0.7 * most)]]
    wide = dataclasses.replace(field, numbers=field.numbers.astype(np.int16))
    assert body({"w": wide}) == body({"w": field}) and np.array_equal(wide.values(), field.values())


def test_steps_that_differ_by_too_much_are_brought_nearer():
    rows = torch.tensor([1.0, 2.0**-60, 1.0, 2.0**70, 1.0])
    field = stepped(torch.diag(torch.tensor([1.0, 0, 1, 1, 1])), None, rows, torch.ones(5))
    assert field.rows.min() == 0 and field.rows.max() <= 127
    assert field.rows[[0, 2, 4]].tolist() == [field.rows[0]] * 3
    assert values_of(field).diagonal().tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("weight", "size", "match"),
    [
        ([0.0, 0.0, 0.0], 2.0**-101, r"w: a step of 2\^-101; expected 2\^-100 to 2\^15"),
        ([1.0, 0.0, 0.0], 2.0**16, r"w: a step of 2\^16; expected 2\^-100 to 2\^15"),
        ([1e-6, 6e4, 1e-6], 1e-6, r"w: a weight of 1.14174e\+06 steps; expected at most 32767"),
        ([1.0, math.nan, 0.0], 1.0, "w: a (step|weight) of"),
        ([1.0, math.inf, 0.0], 1.0, "w: a (step|weight) of"),
    ],
)
@pytest.mark.parametrize("with_feedback", [True, False])
def test_steps_and_weights_out_of_range(weight, size, match, with_feedback):
    upper = torch.eye(3) if with_feedback else None
    with pytest.raises(InputError, match=match) as error:
        stepped(torch.tensor([weight, weight]), upper, torch.full((2,), size), torch.ones(3), "w")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("with_feedback", [True, False])
def test_a_column_with_a_large_weight_has_larger_steps(with_feedback):
    weight = torch.tensor([[0.3, 9e3, -0.1], [0.2, 1.0, 0.5]])
    field = stepped(weight, torch.eye(3) if with_feedback else None, torch.full((2,), 1e-2), torch.ones(3))
    assert field.columns.tolist() == [0, round(4 * math.log2(9e5 / 4096)), 0]
    assert 4096 / 2**0.25 < field.numbers.max() < 4096 * 2**0.25
    assert np.abs(values_of(field) - weight.numpy())[:, [0, 2]].max() <= 0.0051 * 2**0.125


def test_feedback_of_many_steps_is_cut_at_the_largest_number():
    """A column takes up an error of more steps than it has numbers, as of inputs that are nearly the same and
    differ in size."""
    x = gaussian(1000, 1) @ np.array([[1e6, 1.0]]) + 1e-3 * gaussian(1000, 2)
    upper = feedback(torch.from_numpy(x.T @ x), 0.0)
    field = stepped(torch.tensor([[100.0, 1.0]]), upper, torch.ones(1), torch.tensor([128.0, 1e-3]))
    assert field.numbers.tolist() == [[1, -32767]]


def test_plain_rounding_of_a_tensor():
    values = gaussian(3, 4, 5).astype(np.float32)
    field = round_plainly(values)
    assert field.shape == (3, 4, 5) and field.numbers.shape == (3, 20)
    assert not field.rows.any() and not field.columns.any()
    size = math.sqrt(np.mean(values.astype(np.float64) ** 2)) / 64
    assert field.exponent == round(4 * math.log2(size))
    outlier = round_plainly(np.append(np.full(10_000, 1e-3, np.float32), np.float32(50)))
    assert 3000 < outlier.numbers.max() <= 4096 * 2**0.125
    assert round_plainly(np.zeros(3, np.float32)).values().tolist() == [0, 0, 0]


# ---------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def gpt2(shared):
    """Part of a matrix of GPT-2's first layer, and second moments of inputs that are correlated and of
    different sizes."""
    path = shared / "data/models/gpt2_124M_decoder1/decoder1/att.value.w.dat"
    if not path.is_file():
        pytest.skip("no weights of GPT-2")
    weight = np.fromfile(path, ">f4").astype(np.float32).reshape(768, 768)[:128, :256]
    sizes = np.exp(0.5 * gaussian(256, seed=9))
    return weight, sizes[:, None] * correlated_hessian(256) * sizes


def with_at_most(weight, hessian, bits):
    """Round with the finest steps whose code has at most so many bits per weight; values and bits."""
    upper = feedback(torch.from_numpy(hessian))
    low, high = -20.0, 20.0
    for _ in range(20):
        middle = (low + high) / 2
        field = stepped(
            torch.from_numpy(weight),
            upper,
            torch.ones(len(weight)),
            2.0**middle * upper.diagonal() / upper.diagonal().log().mean().exp(),
        )
        reached = field_bits(field) / weight.size
        low, high = (middle, high) if reached > bits else (low, middle)
        if reached <= bits:
            best = values_of(field), reached
    return best


@pytest.mark.parametrize(("method", "share"), [("uniform", 0.5), ("kmeans", 0.3)])
def test_real_weights_against_levels(gpt2, method, share):
    """Eleven levels, at the length that they have here."""
    weight, hessian = gpt2
    data = encode({"w": weight}, {}, codec={"kind": "levels", "levels": 11, "method": method})
    other = weighted_error(weight, decode(data).tensors["w"], hessian)
    values, bits = with_at_most(weight, hessian, 8 * len(data) / weight.size)
    assert bits > 0.98 * 8 * len(data) / weight.size
    assert weighted_error(weight, values, hessian) < share * other


def test_real_weights_against_the_lattice(gpt2):
    """At 3 bits per weight, which the lattice's message has nearly."""
    weight, hessian = gpt2
    result = quantize_linear(weight, hessian, 3, seed=0, name="w", tuning_rounds=1)
    data = encode({"w": result}, {}, codec={"kind": "lattice", "bits": 3, "seed": 0})
    bits = 8 * len(data) / weight.size
    assert 2.8 < bits < 3.05
    other = weighted_error(weight, reconstruct(result), hessian)
    values, reached = with_at_most(weight, hessian, bits)
    assert 0.98 * bits < reached <= bits
    assert weighted_error(weight, values, hessian) < 0.75 * other
