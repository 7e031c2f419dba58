"""The registry of bounds: one line and one class per method, also from other packages."""

import ast
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from tokenbounds import bounds, plugins
from tokenbounds.bounds import Bounded, Bpd, Claim, Document, Grids, Method, TopK, grids_of
from tokenbounds.bounds.betting_bounds import Betting
from tokenbounds.bounds.methods import GROUP, HEADLINE, METHODS, REFERENCE, installed_methods, label_of
from tokenbounds.certificates.evaluate import metrics
from tokenbounds.config.schema import Bounds, slice_of
from tokenbounds.errors import InputError

OWN = ("azuma", "azuma_certified", "azuma_rigorous", "freedman", "betting")
RNG = np.random.default_rng(0)
LOG2_Q, RANKS, ENTROPIES = -RNG.exponential(3, 200), RNG.integers(0, 99, 200), RNG.uniform(0, 6, 200)
KINDS = (
    Bpd(LOG2_Q, 100, ENTROPIES),
    Bpd(LOG2_Q.reshape(50, 4), 100, ENTROPIES.reshape(50, 4)),
    Bpd(LOG2_Q, 100, ENTROPIES, np.full(200, 0.1), (0.05, 0.5)),
    TopK(RANKS, 100, 5),
    TopK(RANKS.reshape(50, 4), 100, 5),
    Bounded(RANKS, 0, 100),
    Document.bpd(LOG2_Q, [60, 60, 80], 100, 0.1),
    Document.topk(RANKS, [60, 60, 80], 100, 5),
)


def test_order_and_roles():
    assert tuple(METHODS)[:5] == OWN
    assert all(method.name == name for name, method in METHODS.items())
    assert (REFERENCE.name, HEADLINE.name) == ("azuma", "betting")
    assert not REFERENCE.certifies and HEADLINE.certifies
    for losses in KINDS:  # every metric of a certificate has both
        assert isinstance(losses, REFERENCE.can_bound) and isinstance(losses, HEADLINE.can_bound)


def test_labels_differ():
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    assert label_of("betting") == HEADLINE.label and label_of("not installed") == "not installed"


@pytest.mark.parametrize("name", OWN)
def test_every_method_bounds_what_it_says(name):
    method = METHODS[name]
    bounded = [losses for losses in KINDS if isinstance(losses, method.can_bound)]
    assert len(bounded) == (3 if name in ("azuma_rigorous", "freedman") else len(KINDS))
    for losses in bounded:
        bound = method.bound(losses, Claim(400, 10**6, 0.05, {"row": 2.0}, 3))
        assert (bound.method, bound.metric) == (name, losses.metric)
        assert bound.random_guess == losses.random_guess
        assert bound.value >= bound.empirical_risk
        grids = {f"{grid}_grid": np.log2(size) for grid, size in method.grid_sizes(losses, Grids()).items()}
        if name == "azuma_certified":  # leaves a head aside, so that it chooses a constant weight
            grids = grids | dict.fromkeys({"alpha_grid"} & grids.keys(), 3.0)
        assert bound.complexity_terms_bits.items() >= (grids | {"message": 400.0, "row": 2.0}).items()


def test_functions_are_the_methods():
    claim = Claim(400, 10**6, 0.1, {"row": 2.0}, 3)
    options = {"delta": 0.1, "extra_bits": {"row": 2.0}}
    certified = options | {"candidates": 3}
    head = {"alphas": np.full(200, 0.1), "alpha_range": (0.05, 0.5)}
    for name, of_bpd, more in (
        ("azuma", bounds.azuma_bpd, options | head),
        ("azuma_certified", bounds.azuma_certified_bpd, certified),
        ("azuma_rigorous", bounds.azuma_rigorous_bpd, certified | head),
        ("betting", bounds.betting_bpd, certified | head | {"entropies": ENTROPIES}),
    ):
        assert of_bpd(LOG2_Q, 100, 400, 10**6, **more) == METHODS[name].bound(KINDS[2], claim)
    headed = bounds.freedman_bpd(LOG2_Q, ENTROPIES, 100, 400, 10**6, **certified, **head)
    assert headed == METHODS["freedman"].bound(KINDS[2], claim)
    for name, of_topk, of_losses, more in (
        ("azuma", bounds.azuma_topk, bounds.azuma_losses, options),
        ("azuma_certified", bounds.azuma_certified_topk, bounds.azuma_certified_losses, certified),
        ("betting", bounds.betting_topk, bounds.betting_losses, certified),
    ):
        assert of_topk(RANKS, 5, 100, 400, 10**6, **more) == METHODS[name].bound(KINDS[3], claim)
        assert of_losses(RANKS, 0, 100, 400, 10**6, **more) == METHODS[name].bound(KINDS[5], claim)


def test_documents_are_means_of_their_tokens():
    losses = Document.topk(RANKS, [60, 60, 80], 100, 5)
    errors = (RANKS >= 5).astype(float)
    expected = [errors[:60].mean(), errors[60:120].mean(), errors[120:].mean()]
    assert losses.values[:, 0] == pytest.approx(expected, rel=1e-15)
    losses = Document.bpd(LOG2_Q, [60, 60, 80], 100, 0.1)
    smoothed = bounds.smoothed_losses(LOG2_Q, 0.1, 100)
    assert losses.values[0, 0] == pytest.approx(smoothed[:60].mean(), rel=1e-15)
    assert (losses.low, losses.high) == bounds.bpd_interval(0.1, 100) and losses.choices(None) == {
        "alpha": 0.1
    }


def test_defaults_of_the_configuration_are_those_of_the_grids():
    assert grids_of(slice_of(Bounds())) == Grids()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lambda_exponents": {"low": 3, "high": 2}}, "expected low <= high"),
        ({"lambda_exponents": {"low": -(10**9), "high": 10**9}}, "greater than or equal to -400"),
        ({"lambda_exponents": [0, 1]}, "lambda_exponents"),
        ({"bet_sizes": {"low": 0.1, "high": 0.9, "count": 10**12}}, "less than or equal to 256"),
        ({"centre_linear": [i / 10**4 for i in range(256)]}, "have 1179648 points; expected at most 1048576"),
        ({"centre_linear": [i / 10**4 for i in range(400)]}, "at most 256 items"),
        ({"attempt": 0}, "attempt"),
        ({"attempt": 1.5}, "attempt"),
    ],
)
def test_settings_that_no_bound_can_use(settings, named):
    """Also from a stranger's certificate: no grid is so large that it fills the memory."""
    with pytest.raises(ValidationError, match=named):
        Bounds.model_validate(settings)


def test_an_attempt_divides_the_share_of_the_draws():
    """As many candidates do, and on top of them."""
    settings = slice_of(Bounds(alpha=[0.1, 0.5], top_k=[1]))
    records = {"log2_q": LOG2_Q, "rank": RANKS, "entropy_bits": ENTROPIES}
    facts = {"delta": 0.05, "m": 10**6, "n": 200, "vocab_size": 100, "choices_bits": {}}
    facts |= {"epsilon_nats": 0.0, "entropy_epsilon_bits": 0.0}
    for change, share in (({}, 1), ({"attempt": 2}, 6), ({"attempt": 3, "candidates": 5}, 60)):
        found = metrics(records, 400, **facts, settings=settings | change)
        for entry in found.values():
            for name, bound in entry["bounds"].items():
                expected = 0.999 * 0.05 / share if METHODS[name].certifies else bound["delta2"]
                assert bound["delta2"] == pytest.approx(expected, rel=1e-12)


ROOMS = ("certificates", "experiments", "planning", "reports", "scoring", "smoothing", "cli.py")


@pytest.mark.parametrize("room", ROOMS)
def test_no_other_room_names_a_method(root, room):
    place = root / "tokenbounds" / room
    for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not strings & set(OWN), path


# ------------------------------ methods of other packages

MODULE = """
from tokenbounds.bounds import NOTHING_MORE, Basis, Method, TopK

class Largest(Method):
    name, label, assumes, can_bound = "largest", "largest loss", NOTHING_MORE, (TopK,)

    def bound(self, losses, claim):
        sample = losses.sample(None)
        risk = sample.values.mean()
        return Basis.of(losses, claim).bound(self, "interval", sample, risk, (sample.high - risk, 0.0))

class Misnamed(Largest):
    name = "another"

class NoMethod:
    name = "largest"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Make the installed package `foreign_bounds` with some entry points."""

    def install(*entries):
        (tmp_path / "foreign_bounds.py").write_text(MODULE)
        info = tmp_path / "foreign_bounds-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-bounds\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        plugins.plugins.cache_clear()

    yield install
    plugins.plugins.cache_clear()
    sys.modules.pop("foreign_bounds", None)


def test_a_method_of_another_package(package):
    package("largest = foreign_bounds:Largest")
    methods = installed_methods(Betting)
    assert list(methods)[:2] == ["betting", "largest"] and isinstance(methods["largest"], Method)
    assert methods["largest"].bound(KINDS[3], Claim(400, 10**6)).value == 1.0


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        (
            "largest = foreign_bounds:Absent",
            "entry point 'largest' of tokenbounds.methods: foreign-bounds fails",
        ),
        ("largest = absent_package:Largest", "foreign-bounds fails .*absent_package"),
        ("betting = foreign_bounds:Largest", "entry point 'betting' .*: the name is taken"),
        ("largest = foreign_bounds:Misnamed", "entry point 'largest' .*; expected a Method with that name"),
        ("largest = foreign_bounds:NoMethod", "entry point 'largest' .*; expected a Method with that name"),
        ("largest = foreign_bounds:TopK", "entry point 'largest' .*; expected a Method with that name"),
    ],
)
def test_an_entry_point_that_is_no_method_is_one_line(package, entry, named):
    package(entry)
    with pytest.raises(InputError, match=named) as caught:
        installed_methods(Betting)
    assert "\n" not in str(caught.value)
