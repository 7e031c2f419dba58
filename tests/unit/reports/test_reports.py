"""Tables and figures hold the certificates' numbers; text that is special in markdown or LaTeX stays text."""

import copy
import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support.runs import SCHEMES, certificate_path, write_run

from tokenbounds.bounds import CONDITIONING
from tokenbounds.bounds.methods import METHODS
from tokenbounds.certificates.files import read_certificate
from tokenbounds.config.schema import Table
from tokenbounds.errors import InputError
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.reports.figures import size as figures
from tokenbounds.reports.figures.parameters import write_parameters_figure
from tokenbounds.reports.figures.size import size_figure_data, write_size_figure
from tokenbounds.reports.figures.smoothing import write_smoothing_figure
from tokenbounds.reports.formats import latex, markdown
from tokenbounds.reports.rows import best_of
from tokenbounds.reports.tables import TERMS, frame, notes, shown, shown_terms, write_table


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    torch.set_num_threads(1)
    run = write_run(tmp_path_factory.mktemp("run") / "run", {"token": SCHEMES["token"]})
    return read_certificate(certificate_path(run, "token"))


def other(found, **changes):
    changed = copy.deepcopy(found) | changes
    changed["hypothesis"]["message_bytes"] = changes.get("bytes", 10**12 + 1)
    return changed


def test_frame(found):
    data = frame([found, other(found)], ["A", "B"], [1, 10])
    assert data["label"].tolist() == ["A", "B", "Random guess"]
    assert data["message_bytes"].tolist()[:2] == [found["hypothesis"]["message_bytes"], 10**12 + 1]
    for metric in ("bpd", "top1", "top10"):
        entry = found["metrics"][metric]
        assert data[f"{metric}_risk"][0] == entry["empirical_risk"]
        assert data[f"{metric}_risk"][2] == entry["random_guess"]
        for method, bound in entry["bounds"].items():
            assert data[f"{metric}_{method}"][0] == bound["value"]
            assert data[f"{metric}_{method}"][2] == entry["random_guess"]
            terms = [data[f"{metric}_{method}_{term}"][0] for term in TERMS]
            assert terms == [bound[key] for key in ("empirical_risk", "complexity_term", "subsample_term")]
            assert bound["capped"] or sum(terms) == pytest.approx(bound["value"])
        assert data[f"{metric}_saving_percent"][0] == entry["saving_percent"]
    assert not data.isna().iloc[:2].any(axis=None)


def test_a_guess_per_corpus(found):
    """Corpora with other vocabularies have other random guesses; each is named."""
    second = other(found, vocab_size=60, corpus={"name": "another"})
    for entry in second["metrics"].values():
        entry["random_guess"] += 1
    data = frame([found, second], ["A", "B"], [1])
    assert data["label"].tolist()[2:] == ["Random guess (text)", "Random guess (another)"]
    assert data["bpd_betting"].tolist()[2:] == [
        found["metrics"]["bpd"]["random_guess"],
        found["metrics"]["bpd"]["random_guess"] + 1,
    ]


def test_a_top_k_that_was_not_bounded(found):
    with pytest.raises(KeyError, match="top7"):
        frame([found], ["A"], [7])


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_files_agree(found, tmp_path):
    paths = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    write_table([found, other(found)], ["A", "B"], [1, 10], "A caption.", **paths)
    with open(paths["csv"], newline="", encoding="utf-8") as handle:
        numbers = list(csv.DictReader(handle))
    assert numbers[0]["message_bytes"] == str(found["hypothesis"]["message_bytes"]) and numbers[1][
        "message_bytes"
    ] == str(10**12 + 1)
    assert float(numbers[0]["bpd_betting"]) == found["metrics"]["bpd"]["bounds"]["betting"]["value"]
    assert (numbers[2]["message_bytes"], numbers[2]["bpd_saving_percent"]) == ("", "")

    bounds, _, terms = paths["md"].read_text(encoding="utf-8").rpartition("\nTerms of each BPD bound")
    caption, empty, header, rule, *lines = bounds.splitlines()
    assert (caption, empty) == ("A caption.", "")
    assert len({len(line) for line in (header, rule, *lines)}) == 1
    names, *table = (cells(line) for line in (header, *lines))
    assert names == ["model", "C(h) [kB]", "", "BPD", "top-1 [%]", "top-10 [%]", "BPD saving"]
    assert [row[0] for row in table] == ["A", "", "", "", "B", "", "", "", "Random guess"]
    assert [row[2] for row in table] == 2 * [
        "risk",
        "azuma (the paper's formula)",
        "azuma, certified",
        "betting",
    ] + [""]
    scales = (("bpd", 1), ("top1", 100), ("top10", 100))
    for first, row in ((0, numbers[0]), (4, numbers[1])):
        assert table[first][1] == f"{int(row['message_bytes']) / 1000:,.1f}"
        for line, method in zip(
            table[first : first + 4], ("risk", "azuma", "azuma_certified", "betting"), strict=True
        ):
            assert line[3:6] == [
                f"{scale * float(row[f'{metric}_{method}']):.2f}" for metric, scale in scales
            ]
        assert table[first + 3][6] == f"{float(row['bpd_saving_percent']):.0f}%"
    assert table[8][3:] == [f"{np.log2(50):.2f}", "98.00", "80.00", ""]
    assert len(terms.splitlines()) == 2 + 2 + 2 * 3 + 2  # and a note

    tex = paths["tex"].read_text(encoding="utf-8")
    body = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert [line.count(" & ") for line in body] == [len(names) - 1] * 10
    assert r"\begin{tabular}{l" + "r" * (len(names) - 1) + "}" in tex and r"\caption{A caption.}" in tex


def test_further_methods_have_lines_where_they_bound(found, tmp_path):
    """Off by default; a method of bits per token leaves the cells of the errors empty."""
    data = frame([found, other(found)], ["A", "B"], [1, 10])
    assert "azuma, rigorous" not in shown(data, [1, 10])[""].tolist()
    asked = ["freedman", "azuma_rigorous"]
    view = shown(data, [1, 10], asked)
    titles = ["risk", "azuma (the paper's formula)", "azuma, certified", "azuma, rigorous"]
    titles += ["freedman (Finzi et al.)", "betting"]
    assert view[""].tolist() == 2 * titles + [""]
    bpd = found["metrics"]["bpd"]["bounds"]
    for place, name in ((3, "azuma_rigorous"), (4, "freedman")):
        row = view.iloc[place]
        assert row[["BPD", "top-1 [%]", "top-10 [%]"]].tolist() == [f"{bpd[name]['value']:.2f}", "", ""]
    terms = shown_terms(data, asked)
    assert terms[""].tolist() == 2 * titles[1:] and "freedman (Finzi et al.) assumes" in notes(data, asked)
    paths = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    write_table([found], ["A"], [1], "A caption.", methods=asked, **paths)
    text = paths["md"].read_text(encoding="utf-8")
    assert text.count(" freedman (Finzi et al.) |") == 2
    assert "freedman" in paths["tex"].read_text(encoding="utf-8")


def test_what_the_notes_say(found):
    """Tables say what M is, and that rows cannot be compared draw by draw."""
    text = notes(frame([found], ["A"], [1]))
    assert CONDITIONING in text and "rows are not paired" in text
    assert all(METHODS[name].note in text for name in ("azuma", "azuma_certified", "betting"))


@pytest.mark.parametrize(
    ("name", "hint"), [("fredman", "did you mean 'freedman'"), ("topk", "expected one of")]
)
def test_a_method_that_no_table_can_show(name, hint):
    row = {"label": "A", "model": "a", "codec": "b", "corpus": "c"}
    assert Table.model_validate({"rows": [row], "methods": ["freedman"]}).methods == ["freedman"]
    with pytest.raises(ValidationError, match=f"methods: '{name}' is not defined.*{hint}"):
        Table.model_validate({"rows": [row], "methods": [name]})


def test_terms_add_up_or_are_marked(found):
    """A reader who adds up a line gets the bound, or is told that the bound is the cap."""
    sure = copy.deepcopy(found)
    for bound in sure["metrics"]["bpd"]["bounds"].values():
        bound |= {
            "empirical_risk": 1.0,
            "complexity_term": 2.0,
            "subsample_term": 0.25,
            "value": 3.25,
        }
    view = shown_terms(frame([found, sure], ["A", "B"], [1]))
    assert view["model"].tolist() == ["A", "", "", "B", "", ""]
    assert list(view.columns) == ["model", "", "bound", "= risk", "+ complexity", "+ draws"]
    assert view.iloc[3:, 2:].to_numpy().tolist() == 3 * [["3.250", "1.000", "2.000", "0.250"]]
    capped = [
        found["metrics"]["bpd"]["bounds"][method]["capped"]
        for method in ("azuma", "azuma_certified", "betting")
    ]
    assert [text.endswith(" (cap)") for text in view["bound"][:3]] == capped
    assert any(capped) and not all(capped)


def test_special_characters(found):
    label = r"50% {a}_b & c|d \e ~ ^ #1 $x$"
    view = shown(frame([found], [label], [1]), [1])
    line = next(line for line in markdown(view, "").splitlines() if line.startswith("| 50%"))
    assert cells(line)[0] == label.replace("|", r"\|")
    tex = latex(view, "100 % & more")
    assert r"50\% \{a\}\_b \& c|d \textbackslash{}e \textasciitilde{} \textasciicircum{} \#1 \$x\$ & " in tex
    assert r"\caption{100 \% \& more}" in tex


def test_figure_data_in_the_order_of_the_series(found):
    data = size_figure_data([found, other(found)], [("GPT", "A"), ("LoRA", "B")])
    assert data["label"].tolist() == ["A", "B"] and data["series"].tolist() == ["GPT", "LoRA"]
    assert data["bpd_betting"].tolist() == [found["metrics"]["bpd"]["bounds"]["betting"]["value"]] * 2
    with pytest.raises(ValueError, match="zip"):
        size_figure_data([found], [("GPT", "A"), ("LoRA", "B")])


def image(certificates, series, folder):
    paths = {suffix: folder / f"f.{suffix}" for suffix in ("csv", "pdf", "png")}
    write_size_figure(certificates, series, **paths)
    with Image.open(paths["png"]) as opened:
        return {key: path.read_bytes() for key, path in paths.items()}, np.asarray(
            opened.convert("RGB")
        ).reshape(-1, 3)


def test_figure_is_the_same_each_time(found, tmp_path):
    first, pixels = image([found, other(found, bytes=5000)], [("GPT", "A"), ("GPT", "B")], tmp_path / "a")
    second, _ = image([found, other(found, bytes=5000)], [("GPT", "A"), ("GPT", "B")], tmp_path / "b")
    assert first == second
    assert 0.01 < (pixels.max(axis=1) < 200).mean() < 0.5


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been saved."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, pdf, png: kept.append(figure))
    return kept


def test_figure_draws_every_series(found, tmp_path, drawn):
    """Also where there are more than colours: a series that is left out would not be missed by a reader."""
    certificates = [other(found, bytes=1000 * 2**i) for i in range(9)]
    for number, certificate_ in enumerate(certificates):
        certificate_["metrics"]["bpd"]["empirical_risk"] += number
    series = [(f"series {i}", "A") for i in range(9)]
    write_size_figure(
        certificates, series, csv=tmp_path / "f.csv", pdf=tmp_path / "f.pdf", png=tmp_path / "f.png"
    )
    left, right = drawn[0].axes
    risk, bounds = found["metrics"]["bpd"]["empirical_risk"], found["metrics"]["bpd"]["bounds"]
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in right.lines] == [
        ([2**i / 1000], [risk + i]) for i in range(9)
    ]
    looks = [(line.get_color(), line.get_marker()) for line in right.lines]
    assert len(set(looks)) == 9
    bounded = [
        line for line in left.lines if len(line.get_xdata()) == 1
    ]  # the legend's examples have no points
    for i, (formula, betting) in enumerate(zip(bounded[::2], bounded[1::2], strict=True)):
        assert (formula.get_ydata().tolist(), betting.get_ydata().tolist()) == (
            [bounds["azuma"]["value"]],
            [bounds["betting"]["value"]],
        )
        assert [(line.get_color(), line.get_marker()) for line in (formula, betting)] == [looks[i]] * 2
        assert (formula.get_linestyle(), betting.get_linestyle(), betting.get_label()) == (
            "--",
            "-",
            f"series {i}",
        )
    (legend,) = drawn[0].legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[:11] == [*(label for label, _ in series), "paper's formula", "betting bound, loss"]


def test_long_labels_leave_room_for_the_panels(found, tmp_path, drawn):
    series = [(f"LLaMA tuned on docstrings, {i} to 4 bits", "A") for i in range(4)]
    certificates = [other(found, bytes=1000 * 2**i) for i in range(4)]
    write_size_figure(
        certificates, series, csv=tmp_path / "f.csv", pdf=tmp_path / "f.pdf", png=tmp_path / "f.png"
    )
    drawn[0].canvas.draw()
    for axes in drawn[0].axes:
        box = axes.get_position()
        assert box.width > 0.3 and box.height > 0.4 and box.x0 > 0 and box.x1 <= 1


def test_best_of(found):
    def result(value, candidates):
        changed = copy.deepcopy(found)
        changed["metrics"]["bpd"]["bounds"]["betting"]["value"] = value
        changed["settings"]["candidates"] = candidates
        return changed

    group = [result(3.0, 1), result(5.0, 3), result(4.0, 3), result(4.5, 3), result(2.0, 2), result(1.0, 2)]
    chosen = best_of(group, [1, 3, 2])
    assert [each["metrics"]["bpd"]["bounds"]["betting"]["value"] for each in chosen] == [3.0, 4.0, 1.0]
    with pytest.raises(InputError, match="a bound for one of 2 candidates; expected one for 3"):
        best_of([result(1.0, 3), result(2.0, 2), result(3.0, 3)], [3])


def test_figure_of_trainable_parameters(tmp_path):
    final = {"val_loss_nats": 2.0, "train_loss_nats": 1.9, "tokens": 1000}
    models = {
        name: {"provenance": {"parameters": count, "final": {**final, "val_loss_nats": loss}}}
        for name, count, loss in (("a", 100, 3.0), ("b", 20_000, 2.5), ("c", 3_000_000, 2.0))
    }
    paths = {key: tmp_path / f"figure.{key}" for key in ("csv", "pdf", "png")}
    write_parameters_figure(models, [("one", "b"), ("one", "a"), ("two", "c")], **paths)
    rows = list(csv.DictReader(paths["csv"].open()))
    assert [
        (row["series"], row["model"], int(row["trainable_parameters"]), float(row["val_loss_nats"]))
        for row in rows
    ] == [
        ("one", "b", 20_000, 2.5),
        ("one", "a", 100, 3.0),
        ("two", "c", 3_000_000, 2.0),
    ]
    assert Image.open(paths["png"]).size[0] > 300 and paths["pdf"].read_bytes().startswith(b"%PDF")


def test_smoothing_figure(tmp_path_factory):
    head = AlphaHead(8, 0.01, 0.9)
    with torch.no_grad():
        head.weight.fill_(0.1)
    schemes = {"token": SCHEMES["token"]}
    runs = {
        key: write_run(tmp_path_factory.mktemp(key) / "run", schemes, head=used)
        for key, used in (("base", None), ("head", head))
    }
    base, headed = (read_certificate(certificate_path(runs[key], "token")) for key in ("base", "head"))
    for found, key in ((base, "base"), (headed, "head")):  # one run holds both in a real workflow
        for item in found["records"]:
            item["path"] = str(runs[key] / item["path"])
    out = tmp_path_factory.mktemp("figure")
    paths = {key: out / f"figure.{key}" for key in ("csv", "alpha", "pdf", "png")}
    arguments = ([headed, headed], [base, base], ["GPT", "GPT"], ["betting", "azuma_rigorous"], [400, 400])
    write_smoothing_figure(runs["base"], *arguments, **paths)
    rows = {row["method"]: row for row in csv.DictReader(paths["csv"].open())}
    lines = list(csv.DictReader(paths["alpha"].open()))
    for method in ("azuma_rigorous", "betting"):
        assert float(rows[method]["head"]) == headed["metrics"]["bpd"]["bounds"][method]["value"]
        constant = base["metrics"]["bpd"]["bounds"][method]
        assert float(rows[method]["constant"]) == pytest.approx(constant["value"], rel=1e-12)
        middle = {
            float(line["alpha"]): float(line["bound"])
            for line in lines
            if line["method"] == method and line["bound"]
        }
        assert list(middle) == [0.01, 0.1, 0.5]
        # what the certificate chose, at the same price
        assert middle[constant["choices"]["alpha"]] == pytest.approx(constant["value"], rel=1e-9)
        assert float(rows[method]["before"]) == pytest.approx(middle[0.5], rel=1e-12)
        assert (
            sum(float(line["tokens"]) for line in lines if line["method"] == method and line["tokens"]) == 40
        )
    assert Image.open(paths["png"]).size[0] > 900


@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-4, 0.5), (1.4e5, 2.9e5), (2.33e5, 2.86e5), (0.11, 0.17), (500, 3e5), (0.005, 0.9), (1, 3e9)],
)
def test_few_ticks(low, high):
    axes = figures.plt.figure().add_subplot()
    axes.plot([low, high], [0, 1])
    figures.log_axis(axes)
    assert 2 <= sum(axes.get_xlim()[0] <= tick <= axes.get_xlim()[1] for tick in axes.get_xticks()) <= 6
    figures.plt.close(axes.figure)
