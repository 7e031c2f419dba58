"""The figure and the table of kind `downstream`: their configuration, their numbers and their files."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tokenbounds.config.load import parse_config
from tokenbounds.errors import InputError
from tokenbounds.reports.downstream_table import comparison, pearson, write_downstream_table
from tokenbounds.reports.figures.downstream import (
    entropy_by_index,
    figure_data,
    index_edges,
    write_downstream_figure,
)
from tokenbounds.scoring.records import read_records

# ---------------------------------------------------------------- configuration

ROW = {"label": "G", "model": "gpt", "codec": "levels", "corpus": "text"}
GPT = {
    "family": "gpt",
    "corpus": "text",
    "architecture": {"layers": 1, "heads": 1, "width": 8},
    "training": {"steps": 1, "warmup": 0},
}
FIGURE = {
    "kind": "downstream",
    "entropy": ROW,
    "generator": ROW,
    "evaluated": [{"label": label, "model": "gpt", "codec": "levels"} for label in "abc"],
    "downstream": [{"label": "text", "metric": "perplexity", "corpus": "text"}],
    "table": "t",
}
PUBLISHED = {"label": "A", "metric": "accuracy", "published": {"gpt": 4}}


def parsed(changes):
    config = {
        "run": "r",
        "samplings": {"documents": {"mode": "document", "n": 5}},
        "corpora": {"text": {"source": {"files": ["a.txt"]}, "tokenizer": {"file": "tokenizer.json"}}},
        "models": {"gpt": GPT},
        "codecs": {"levels": {"kind": "levels"}, "zip": {"kind": "zip", "tool": "gzip"}},
        "tables": {"bounds": {"rows": [ROW]}},
        "figures": {"f": FIGURE | changes},
    }
    return parse_config(config, "run.yaml")


def test_a_figure_that_can_be_made():
    config = parsed({"downstream": [*FIGURE["downstream"], PUBLISHED], "source": "S"})
    assert list(config.every_table) == ["bounds", "t"]
    assert config.figures["f"].corpora == ["text"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"table": "bounds"}, "figures.f.table: 'bounds' is one of `tables`"),
        ({"evaluated": FIGURE["evaluated"][:2]}, "figures.f.evaluated: .*at least 3 items"),
        ({"evaluated": [*FIGURE["evaluated"], FIGURE["evaluated"][0]]}, "evaluated: a label occurs twice"),
        (
            {"evaluated": [*FIGURE["evaluated"], {"label": "d", "model": "gtp", "codec": "levels"}]},
            r"evaluated\[3\].model: 'gtp'.*'gpt'",
        ),
        (
            {"evaluated": [*FIGURE["evaluated"], {"label": "d", "model": "gpt", "codec": "zip"}]},
            r"evaluated\[3\].codec: 'zip'",
        ),
        (
            {"downstream": [{"label": "A", "metric": "accuracy", "corpus": "txt"}]},
            r"downstream\[0\].corpus: 'txt'.*'text'",
        ),
        (
            {"downstream": [{"label": "A", "metric": "accuracy"}]},
            "exactly one of corpus, published is needed",
        ),
        (
            {"downstream": [PUBLISHED | {"published": {"gtp": 4}}], "source": "S"},
            "downstream 'A': values of gtp; expected those of gpt",
        ),
        ({"downstream": [PUBLISHED]}, "`source`"),
        ({"source": "S"}, "`source`"),
        ({"downstream": 2 * FIGURE["downstream"]}, "downstream: a label and metric occur twice"),
        (
            {"generator": ROW | {"model": ["gpt", "gpt"]}},
            "generator 'G': 2 models and 1 codecs; expected one of each",
        ),
        (
            {"generator": ROW | {"sampling": "documents"}},
            "generator.sampling: a scheme of mode document; expected single tokens",
        ),
        (
            {"entropy": ROW | {"sampling": "documents"}},
            "entropy.sampling: a scheme of mode document; expected single tokens or windows",
        ),
        ({"draws": 10001}, "figures.f.draws: 10001; expected at most the n of its sampling scheme, 10000"),
        (
            {"tokens": 1025},
            "figures.f.tokens: 1025; expected at most the context_length of its sampling scheme, 1024",
        ),
    ],
)
def test_a_figure_that_cannot(changes, line):
    with pytest.raises(InputError, match=line) as caught:
        parsed(changes)
    assert str(caught.value).startswith("run.yaml: ") and "\n" not in str(caught.value)


# ---------------------------------------------------------------- figure and table

LABELS = ["S", "M", "L"]
DOWNSTREAM = [
    {"label": "A", "metric": "perplexity", "published": {"s": 40.0, "m": 30.0, "l": 10.0}},
    {"label": "B", "metric": "perplexity", "corpus": "b"},
    {"label": "A", "metric": "accuracy", "published": {"s": 50.0, "m": 60.0, "l": 61.0}},
]


def evaluations():
    measured = [60.0, 20.0, 10.0]
    return [
        {
            "model": name,
            "parameters": size,
            "objective_bits": bits,
            "objective_standard_error": 0.1,
            "scored": 9,
            "left_out": 1,
            "downstream": {"b": {"perplexity": value, "perplexity_standard_error": 0.5}},
        }
        for name, size, bits, value in zip("sml", (100, 200, 400), (5.0, 4.5, 4.4), measured, strict=True)
    ]


def test_pearson():
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 20))
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert math.isnan(pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


def test_comparison():
    data, correlations = comparison(evaluations(), LABELS, DOWNSTREAM)
    assert data["mean PPL"].tolist() == [50.0, 25.0, 10.0]
    assert data["mean ACC"].tolist() == [50.0, 60.0, 61.0]
    assert data["B PPL standard error"].tolist() == [0.5] * 3
    assert correlations["mean PPL"] == pytest.approx(np.corrcoef([5.0, 4.5, 4.4], [50, 25, 10])[0, 1])
    assert correlations["A ACC"] == pytest.approx(np.corrcoef([5.0, 4.5, 4.4], [50, 60, 61])[0, 1])
    assert list(correlations) == ["A PPL", "B PPL", "mean PPL", "A ACC", "mean ACC"]


def test_table(tmp_path):
    paths = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    note = {"generator": "G", "corpus": "text", "draws": 30, "source": "Someone (2019)"}
    write_downstream_table(evaluations(), LABELS, DOWNSTREAM, "A caption.", note, **paths)
    data = pd.read_csv(paths["csv"])
    _, correlations = comparison(evaluations(), LABELS, DOWNSTREAM)
    assert data["label"].tolist() == ["S", "M", "L", "correlation"]
    assert data["parameters"].tolist()[:3] == [100, 200, 400]
    assert {name: data[name].iloc[-1] for name in correlations} == pytest.approx(correlations)
    text = paths["md"].read_text()
    assert "5.000 ± 0.100 |" in text and f"{correlations['mean PPL']:+.3f}" in text
    assert "measured on 30 drawn tokens of each corpus, as published by Someone (2019)" in text
    assert paths["tex"].read_text().count(r"\\") == 5


def test_index_edges():
    assert index_edges(1024) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1025]
    assert index_edges(64) == [0, 1, 2, 4, 8, 16, 32, 48, 64, 65]
    for longest in range(1, 40):
        edges = index_edges(longest)
        assert edges == sorted(set(edges)) and edges[0] == 0 and edges[-2:] == [longest, longest + 1]


def test_entropy_by_index():
    index = np.array([0, 0, 0, 3, 2, 8, 8, 5])
    entropy = np.array([1.0, 2.0, 6.0, 4.0, 5.0, 7.0, 9.0, 1.0])
    means = entropy_by_index(index, entropy, 8)
    assert means["entropy_bits"].tolist() == [3.0, 4.5, 8.0]  # one token alone has no standard error
    assert means["index"].tolist() == [0, 2.5, 8]
    assert means["standard_error"].tolist() == pytest.approx(
        [np.std([1, 2, 6], ddof=1) / math.sqrt(3), 0.5, 1.0]
    )
    with pytest.raises(InputError, match="a context of 8 tokens; expected at most 7"):
        entropy_by_index(index, entropy, 7)


def test_figure(run, tmp_path):
    records = [run / f"risk/gpt.levels.text.token/{part:05d}.parquet" for part in range(2)]
    paths = {suffix: tmp_path / f"f.{suffix}" for suffix in ("csv", "pdf", "png")}
    write_downstream_figure(records, False, 16, evaluations(), LABELS, DOWNSTREAM, ("E", "G"), **paths)
    numbers = pd.read_csv(paths["csv"])
    columns = read_records(records)
    histogram = numbers[numbers["panel"] == "histogram"]
    assert histogram["y"].sum() == len(columns["draw"])
    assert histogram["x_to"].max() == pytest.approx(columns["entropy_bits"].max())
    size = numbers[numbers["panel"] == "size"].set_index("series")
    assert size.loc["objective_bits", "y"].tolist() == [5.0, 4.5, 4.4]
    assert size.loc["mean PPL", "y"].tolist() == [50.0, 25.0, 10.0]
    data, _ = comparison(evaluations(), LABELS, DOWNSTREAM)
    assert figure_data(columns, 16, data).shape == numbers.shape
    with Image.open(paths["png"]) as image:
        pixels = np.asarray(image.convert("L"))
    assert 0.01 < (pixels < 200).mean() < 0.5
    assert paths["pdf"].read_bytes().startswith(b"%PDF")
