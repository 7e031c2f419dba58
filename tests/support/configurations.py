"""Configurations for tests: a minimal one, and edits of it."""

import copy

import pytest

from tokenbounds.config.load import parse_config
from tokenbounds.errors import InputError

MINIMAL = {
    "run": "r",
    "corpora": {"text": {"source": {"files": ["a.txt"]}, "tokenizer": {"file": "tokenizer.json"}}},
    "models": {
        "gpt": {
            "family": "gpt",
            "corpus": "text",
            "architecture": {"layers": 1, "heads": 1, "width": 8},
            "training": {"steps": 1, "warmup": 0},
        },
        "gpt-2": {
            "family": "gpt",
            "corpus": "text",
            "architecture": {"layers": 2, "heads": 1, "width": 8},
            "training": {"steps": 1, "warmup": 0},
        },
    },
    "codecs": {"levels11": {"kind": "levels"}},
    "tables": {"t": {"rows": [{"label": "GPT", "model": "gpt", "codec": "levels11", "corpus": "text"}]}},
}
SWEEP = {
    "family": "gpt",
    "corpus": "text",
    "architecture": {"layers": 1, "heads": 1, "width": 16},
    "structure": {"kind": "lora", "rank": 1},
    "training": {"steps": 600},
}


def edited(key, value):
    """Copy `MINIMAL` and set one key, e.g. "tables.t.rows.0.model"; the value None sets null."""
    data = copy.deepcopy(MINIMAL)
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = data
    for part in path:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return data


def line_for(key, value):
    """Return the line that refuses `MINIMAL` with one key changed, without the name of the file."""
    data = edited(key, value)
    if key.startswith("figures.f."):
        data["figures"]["f"].setdefault("kind", "size")
    with pytest.raises(InputError) as caught:
        parse_config(data, "run.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("run.yaml: ")
    return line.removeprefix("run.yaml: ")


def swept(sweep, rows, **other):
    """Copy `MINIMAL` with a model `lora` that has a sweep, and a table of rows."""
    data = copy.deepcopy(MINIMAL)
    data["models"]["lora"] = {**SWEEP, "sweep": sweep}
    data["tables"] = {"t": {"rows": [{"codec": "levels11", "corpus": "text", **row} for row in rows]}}
    return data | other
