"""Costs of single jobs, and their sums."""

import math

import pytest

from tokenbounds.config.load import parse_config
from tokenbounds.planning import A100_TERAFLOPS, A100_TERAFLOPS_32, Costs, Job, JobGraph, by_output, by_rule

GPT = {
    "family": "gpt",
    "corpus": "text",
    "architecture": {"layers": 2, "heads": 2, "width": 8, "context_length": 32},
    "training": {"steps": 10, "batch_size": 3, "accumulation": 2, "warmup": 1},
}
HUB = {"hub": "someone/something", "revision": "latest"}
CONFIG = {
    "run": "r",
    "sampling": {"n": 50, "context_length": 16},
    "samplings": {
        "windows": {"mode": "window", "n": 40, "window": 4, "context_length": 16},
        "documents": {"mode": "document", "n": 30, "context_length": 16},
    },
    "corpora": {
        "text": {"source": {"files": ["a.txt"]}, "tokenizer": {"train": {"vocab_size": 300}}},
        "big": {
            "source": HUB,
            "tokenizer": HUB,
            "shards": 4,
            "expected": {"tokens": 1000, "gigabytes": 2},
        },
        "integers": {
            "source": {"sequences": {"complexity": 5}},
            "tokenizer": {"vocabulary": ["0", "1", ",", "<|endoftext|>"]},
        },
    },
    "models": {
        "gpt": GPT,
        "short": GPT | {"corpus": "integers", "last_tokens": 5},
        "chain": {"family": "markov", "corpus": "text", "order": 2},
        "known": {
            "family": "pretrained",
            "corpus": "big",
            "expected": {"parameters": 1e9, "gigabytes": 3},
            "context_length": 8,
            **HUB,
        },
        "unknown": {"family": "quip", "corpus": "big", **HUB},
    },
    "codecs": {
        "levels": {"kind": "levels", "levels": 16},
        "tuned": {"kind": "levels", "levels": 4, "tuning": {"steps": 7, "batch_size": 2}},
        "lattice": {"kind": "lattice", "bits": 2, "tokens": 500},
        "head": {"kind": "alpha_head", "base": "levels", "tokens": 90},
        "counts": {"kind": "counts"},
        "zip": {"kind": "zip"},
    },
    "scoring": {"parts": 2},
    "tables": {
        "table": {"rows": [{"label": "GPT", "model": "gpt", "codec": "levels", "corpus": "text"}]},
    },
    "figures": {
        "forgotten": {
            "kind": "memorization",
            "levels": [2, 4, 8],
            "series": [{"label": "short", "models": "short"}],
        },
        "downstream": {
            "kind": "downstream",
            "entropy": {"label": "GPT", "model": "gpt", "codec": "levels", "corpus": "text"},
            "generator": {"label": "GPT", "model": "gpt", "codec": "levels", "corpus": "text"},
            "evaluated": [
                {"label": "a", "model": "gpt", "codec": "levels"},
                {"label": "b", "model": "gpt", "codec": "head"},
                {"label": "c", "model": "known", "codec": "levels"},
            ],
            "downstream": [{"label": "text", "metric": "perplexity", "corpus": "text"}],
            "draws": 20,
            "tokens": 3,
            "table": "shown",
        },
    },
}

# Parameters of GPT: 300 embeddings of width 8 (padded to 320 where it is structured), twelve matrices of a
# block as 12 w^2, three norms' weights; no bias.
N = 300 * 8 + 2 * (12 * 8**2 + 2 * 8) + 8


def token(length=32):
    """Operations of a token's forward pass through the GPT: 2 N and 4 layers width length."""
    return 2 * N + 4 * 2 * 8 * length


def of_training(operations):
    return operations / (A100_TERAFLOPS * 1e12 * 0.3) / 3600 + 1 / 60


def of_scoring(operations):
    return operations / (A100_TERAFLOPS_32 * 1e12 * 0.6) / 3600 + 1 / 60


@pytest.fixture
def costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run has tokens
    return Costs(parse_config(CONFIG), 50257)


JOBS = [
    ("train", {"model": "gpt"}, of_training(3 * 10 * 3 * 2 * 32 * token())),
    ("message", {"model": "gpt", "codec": "tuned"}, of_scoring(3 * 7 * 2 * 32 * token())),
    ("message", {"model": "gpt", "codec": "lattice"}, of_scoring(500 * token())),
    ("alpha_head", {"model": "gpt", "codec": "head"}, of_scoring(90 * 16 * token())),
    ("sanity_check", {"model": "known", "codec": "levels"}, of_scoring(20 * 512 * 2e9)),
    ("score", {"model": "gpt", "codec": "levels", "sampling": "token"}, of_scoring(50 * 16 * token() / 2)),
    ("score", {"model": "gpt", "codec": "levels", "sampling": "windows"}, of_scoring(40 * 16 * token() / 2)),
    ("score", {"model": "known", "codec": "levels", "sampling": "token"}, of_scoring(50 * 8 * 2e9 / 2)),
    ("score", {"model": "chain", "codec": "counts", "sampling": "token"}, of_scoring(0)),
    (
        "resample",
        {"figure": "downstream", "model": "gpt", "sampling": "token"},
        of_scoring(3 * 20 * 16 * token()),
    ),
    (
        "score_resampled",
        {"figure": "downstream"},
        of_scoring(
            3 * 20 * (2 * 16 * token() + 8 * 2e9)
        ),  # the rounds: resampled, other tokenizer, one corpus
    ),
]


@pytest.mark.parametrize(("rule", "names", "hours"), JOBS)
def test_gpu_hours(rule, names, hours, costs):
    wildcards = {"run": "r", **names}
    assert costs.gpu_hours(Job(rule, wildcards, 1)) == pytest.approx(hours, rel=1e-12)
    assert costs.gpu_hours(Job(rule, wildcards, 0)) == 0


def test_gpu_hours_of_memorization(costs):
    """Three numbers of levels, of some 6000 sequences each."""
    job = Job("memorization", {"run": "r", "figure": "forgotten", "model": "short"}, 1)
    parameters = N - (300 - 4) * 8
    assert costs.gpu_hours(job) == pytest.approx(
        of_scoring(3 * 6000 * 5 * (2 * parameters + 4 * 2 * 8 * 5)), rel=1e-12
    )


def test_gpu_hours_where_the_size_is_not_known(costs):
    names = {"run": "r", "model": "unknown", "codec": "zip", "sampling": "token"}
    assert math.isnan(costs.gpu_hours(Job("score", names, 1)))


@pytest.mark.parametrize(
    ("rule", "names", "gigabytes"),
    [
        ("download_corpus", {"corpus": "big"}, 2),
        ("download_model", {"model": "known"}, 3),
        ("download_model", {"model": "unknown"}, math.nan),
        ("download_tokenizer", {"corpus": "big"}, 0),
        ("train", {"model": "gpt"}, 0),
    ],
)
def test_downloads(rule, names, gigabytes, costs):
    assert costs.download_gigabytes(Job(rule, names)) == pytest.approx(gigabytes, nan_ok=True)


@pytest.mark.parametrize(
    ("rule", "names", "size"),
    [
        ("tokenize", {"corpus": "big"}, 1000 / 4 * 2),  # two bytes a token: V is below 65536
        ("tokenize", {"corpus": "text"}, math.nan),
        ("tokenize", {"corpus": "integers"}, 0),
        ("train", {"model": "gpt"}, 4 * N),
        ("pretrained", {"model": "known"}, 4e9),
        ("message", {"model": "gpt", "codec": "levels"}, N * 4 / 8),
        ("message", {"model": "known", "codec": "tuned"}, 1e9 * 2 / 8),
        ("message", {"model": "chain", "codec": "counts"}, 0),
        ("message", {"model": "gpt", "codec": "lattice"}, N * 2 / 8),
        ("score", {"model": "gpt", "sampling": "token"}, 30 * 50 / 2),
        ("score", {"model": "gpt", "sampling": "windows"}, 30 * 40 * 4 / 2),
        ("score", {"model": "gpt", "sampling": "documents"}, 30 * 30 * 16 / 2),
        ("bound", {"model": "gpt", "sampling": "token"}, 0),
    ],
)
def test_stored_bytes(rule, names, size, costs):
    assert costs.stored_bytes(Job(rule, names)) == pytest.approx(size, nan_ok=True)


def test_tokens_of_a_large_vocabulary_take_four_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    costs = Costs(parse_config(CONFIG), 65537)
    assert costs.stored_bytes(Job("tokenize", {"corpus": "big"})) == 1000


def test_sums(costs):
    """Jobs that several outputs share count for each of them, and once in all."""
    config = parse_config(CONFIG)
    train = Job("train", {"run": "r", "model": "gpt"}, 4)
    table, figure, shown, downstream = (Job(rule, {}) for rule in ("table", "figure", "table", "figure"))
    whole = Job("all", {})
    dependencies = {
        train: [],
        table: [train],
        figure: [train],
        shown: [],
        downstream: [shown],
        whole: [table, figure, shown, downstream],
    }
    paths = {
        "results/r/tables/table.csv": table,
        "results/r/figures/forgotten.csv": figure,
        "results/r/tables/shown.csv": shown,
        "results/r/figures/downstream.csv": downstream,
    }
    graph = JobGraph(dependencies, paths)
    frame = by_output(config, graph, costs).set_index("output")
    assert list(frame.index) == ["table", "forgotten", "shown", "downstream", "all"]
    assert list(frame["jobs"]) == [2, 2, 1, 2, 6]
    assert list(frame["gpu_jobs"]) == [1, 1, 0, 0, 1]
    hours = costs.gpu_hours(train)
    assert list(frame["gpu_hours"]) == [hours, hours, 0, 0, hours]
    assert list(frame["results_gb"] * 1e9) == pytest.approx([4 * N, 4 * N, 0, 0, 4 * N])
    rules = by_rule(graph, costs)
    assert list(rules["rule"]) == ["figure", "table", "train"] and list(rules["jobs"]) == [2, 2, 1]
