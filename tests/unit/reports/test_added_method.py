"""A method added by one registry line appears in certificates, tables, descriptions and figures."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
from support.runs import SCHEMES, SETTINGS, certificate_path, write_run

from tokenbounds.bounds import CONDITIONING, Basis, Bounded, Bpd, Method, TopK
from tokenbounds.bounds.methods import METHODS
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.config.schema import Sampling
from tokenbounds.reports.rows import best_of
from tokenbounds.reports.tables import frame, notes, shown, shown_methods, shown_terms

DOCUMENTS = Sampling(mode="document", n=30, context_length=16)


class Largest(Method):
    """The largest loss: true, and of no use."""

    name, label, assumes = "largest", "largest loss", "a patient reader"

    def bound(self, losses, claim):
        """Bound every kind of loss."""
        basis = Basis.of(losses, claim, self.grid_sizes(losses, claim.grids))
        options = losses.options(claim.grids)
        sample = losses.sample(max(options) if len(options) > 1 else options[0])
        risk = sample.values.mean()
        return basis.bound(self, "losses have an interval", sample, risk, (sample.high - risk, 0.0))


class LargestBpd(Largest):
    """The same, for bits per token only."""

    name, label, can_bound = "largest_bpd", "largest bits", (Bpd,)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificates of tokens and of documents, made with two more methods."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for method in (Largest(), LargestBpd()):
            patch.setitem(METHODS, method.name, method)
        schemes = {"token": SCHEMES["token"], "documents": DOCUMENTS}
        run = write_run(tmp_path_factory.mktemp("run") / "run", schemes)
    return {name: read_certificate(certificate_path(run, name)) for name in schemes}


@pytest.fixture
def added(monkeypatch):
    """The methods are installed here, too."""
    for method in (Largest(), LargestBpd()):
        monkeypatch.setitem(METHODS, method.name, method)


def test_certificates_hold_it(certificates):
    for sampling, certificate in certificates.items():
        for metric, entry in certificate["metrics"].items():
            expected = ["azuma", "azuma_certified", "azuma_rigorous", "freedman", "betting"]
            expected += ["largest", "largest_bpd"]
            if metric != "bpd" or sampling == "documents":  # not their kind of loss
                left_out = "azuma_rigorous", "freedman", "largest_bpd"
                expected = [name for name in expected if name not in left_out]
            assert list(entry["bounds"]) == expected
            bound = entry["bounds"]["largest"]
            assert bound["assumes"] == f"{Largest.assumes}; {CONDITIONING}" and bound["method"] == "largest"
            assert "given everything before it" in entry["bounds"]["betting"]["assumes"]


def test_a_document_certificate_counts_the_choice_of_alpha(certificates):
    bpd = certificates["documents"]["metrics"]["bpd"]["bounds"]
    for name in ("azuma_certified", "betting", "largest"):
        assert bpd[name]["complexity_terms_bits"]["alpha_grid"] == pytest.approx(1.584962500721156)
        assert bpd[name]["delta2"] == pytest.approx(0.999 * 0.05 / len(SETTINGS["alpha"]))
    assert bpd["azuma"]["complexity_terms_bits"]["alpha_grid"] == pytest.approx(1.584962500721156)
    assert bpd["largest"]["choices"] == {"alpha": 0.5}  # the least of the grid


def test_tables_show_it(certificates, added):
    token = certificates["token"]
    data = frame([token], ["A"], [1, 10])
    assert data["bpd_largest"][0] == token["metrics"]["bpd"]["bounds"]["largest"]["value"]
    assert data["bpd_largest_bpd"][0] == token["metrics"]["bpd"]["bounds"]["largest_bpd"]["value"]
    assert shown_methods(data) == ["azuma", "azuma_certified", "betting", "largest"]  # with every metric
    view = shown(data, [1, 10])
    titles = ["risk", *(METHODS[name].label for name in shown_methods(data)), ""]
    assert view[""].tolist() == titles and "largest loss" in shown_terms(data)[""].tolist()
    assert "; largest loss assumes a patient reader. " in notes(data)
    assert "largest bits" in shown(data, [1, 10], ["largest_bpd"])[""].tolist()
    assert "azuma, rigorous" not in notes(data)


def test_a_table_of_certificates_that_lack_it(certificates, added):
    """Such as those made before the method was installed: their other lines are shown."""
    token = certificates["token"]
    metrics = {
        metric: entry
        | {"bounds": {key: entry["bounds"][key] for key in ("azuma", "azuma_certified", "betting")}}
        for metric, entry in token["metrics"].items()
    }
    data = frame([token | {"metrics": metrics}, token], ["old", "new"], [1])
    view = shown(data, [1])
    assert view[""].tolist().count("largest loss") == 1 and view[""].tolist().count("betting") == 2
    assert not view.isin(["nan"]).any(axis=None) and pd.isna(data["bpd_largest"][0])
    assert shown_terms(data)["model"].tolist() == ["old", "", "", "new", "", "", ""]


def test_descriptions_show_it(certificates, added):
    text = describe_certificate(certificates["token"])
    assert text.count("largest loss  ") == 3 and "  largest loss assumes a patient reader" in text


def test_a_certificate_from_elsewhere(certificates):
    """Its method is not installed here: it has its name for a label."""
    assert "largest " in describe_certificate(certificates["token"])
    data = frame([certificates["token"]], ["A"], [1])
    assert "bpd_largest" in data and "largest" not in shown_methods(data)
    assert best_of([certificates["token"]], [1]) == [certificates["token"]]


def test_kinds_of_losses():
    assert Largest.can_bound == (Bpd, TopK, Bounded)


@pytest.mark.parametrize(
    "module",
    [
        "bounds.methods",
        "certificates.describe",
        "certificates.evaluate",
        "reports.downstream_table",
        "reports.figures.downstream",
        "reports.figures.memorization",
        "reports.figures.parameters",
        "reports.figures.size",
        "reports.figures.smoothing",
        "reports.tables",
    ],
)
def test_no_torch(module):
    code = f"import sys, tokenbounds.{module}; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
