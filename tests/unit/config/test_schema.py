"""Sections of the configuration: closed, described, and one clear line for a contradiction inside one."""

import copy
import importlib
import json
import pkgutil

import pytest
from support.configurations import MINIMAL, line_for

import tokenbounds.config
from tokenbounds.config.load import json_schema, parse_config
from tokenbounds.config.run import Config
from tokenbounds.config.schema import Section, slice_of
from tokenbounds.errors import InputError


def test_schema_file_is_the_schema(root):
    """docs/config.schema.json is generated: python -m tokenbounds.config.load (make schema)."""
    assert json.loads((root / "docs/config.schema.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(json_schema())
    )


def sections(base=Section):
    """List every section of the package, base classes too."""
    for module in pkgutil.walk_packages(tokenbounds.config.__path__, "tokenbounds.config."):
        importlib.import_module(module.name)
    below = [section for child in base.__subclasses__() for section in (child, *sections(child))]
    room = "tokenbounds.config."  # other rooms have sections of their own, which are no part of it
    return [section for section in dict.fromkeys(below) if section.__module__.startswith(room)]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_section_is_closed_and_every_key_described(section):
    assert section.model_config["extra"] == "forbid" and section.model_config["frozen"]
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description and field.description.endswith((".", "`")), f"{section.__name__}.{name}"


@pytest.mark.parametrize(("key", "values"), [("bounds.alpha", [0.1, 0.5, 0.1]), ("bounds.top_k", [1, 1])])
def test_grid_with_a_value_twice(key, values):
    assert line_for(key, values) == f"{key}: grid {values} holds a value twice: it would be counted twice"


@pytest.mark.parametrize("name", ["../x", "a/b", "a.b", "", ".", "-x", "a b", "a\n", "ü", "a,b", "{run}"])
@pytest.mark.parametrize("section", ["run", "corpora", "models", "codecs", "samplings", "tables", "figures"])
def test_names_that_would_leave_their_folder_or_be_read_as_two(section, name):
    """Names become file names, joined by '.', and wildcards of rules."""
    values = {"samplings": {}, "figures": {"kind": "size", "series": []}}
    data = copy.deepcopy(MINIMAL)
    if section == "run":
        data["run"] = name
    else:
        data.setdefault(section, {})[name] = values.get(section) or next(
            iter(MINIMAL.get(section, {"": {}}).values())
        )
    with pytest.raises(InputError, match="must be letters, digits, '-' and '_' only") as caught:
        parse_config(data)
    assert f"'{name}'" in str(caught.value)


def test_sequence_longer_than_the_context():
    line = line_for("models.gpt.training.sequence_length", 1025)
    assert line == "models.gpt: training.sequence_length 1025 is longer than the model's context_length 1024"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "corpora.text.source",
            {},
            "exactly one of installed, files, hub, sequences, antibodies is needed, found none",
        ),
        (
            "corpora.text.source",
            {"files": ["a"], "hub": "a/b"},
            "exactly one of installed, files, hub, sequences, antibodies is needed, found files, hub",
        ),
        ("corpora.text.source", {"hub": "a/b"}, "needs `revision`"),
        ("corpora.text.source", {"files": ["a"], "revision": "0" * 40}, "belong to a hub source"),
        ("corpora.text.tokenizer", {"hub": "a/b"}, "a hub tokenizer needs it"),
        ("corpora.text.tokenizer", {"file": "a", "revision": "0" * 40}, "goes with a hub tokenizer"),
        ("sampling", {"mode": "window"}, "window mode needs it"),
        ("sampling", {"window": 8}, "goes with mode: window"),
        (
            "sampling",
            {"mode": "window", "window": 9, "context_length": 8},
            "window 9 is longer than context_length 8",
        ),
        (
            "models.gpt.architecture",
            {"layers": 1, "heads": 3, "width": 8},
            "width 8 is not a multiple of heads 3",
        ),
        (
            "models.gpt.architecture",
            {"layers": 1, "heads": 8, "width": 8},
            "rotary positions need an even width per head",
        ),
        (
            "models.gpt.training",
            {"steps": 1, "accumulation": 3, "processes": 2},
            "accumulation 3 is not a multiple of processes 2",
        ),
        ("models.gpt.training", {"steps": 5, "warmup": 6}, "warmup 6 is longer than steps 5"),
        (
            "models.gpt.training",
            {"steps": 500, "min_learning_rate": 0.1},
            "min_learning_rate 0.1 is above learning_rate 0.0002",
        ),
        ("corpora.text.eot", "", "String should have at least 1 character"),
        (
            "corpora.text.source.revision",
            "main",
            "'main' is not a commit (40 hexadecimal digits); a branch or tag can move",
        ),
        ("corpora.text.tokenizer.revision", "0" * 39, f"'{'0' * 39}' is not a commit"),
    ],
)
def test_sections_that_contradict_themselves(key, value, expected):
    line = line_for(key, value)
    assert line.startswith(f"{key}: ") and expected in line


def test_slice_is_plain_data_without_nulls():
    plain = slice_of(parse_config(MINIMAL).models["gpt"], include={"family", "training"})
    assert json.loads(json.dumps(plain)) == plain
    assert plain.keys() == {"family", "training"}
    assert "sequence_length" not in plain["training"]


def test_immutable():
    config = parse_config(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert Config.model_config["frozen"]
