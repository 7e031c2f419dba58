"""The configuration: closed, described, and one clear line for what is wrong with it."""

import copy
import json
import math

import pytest
import yaml
from pydantic import BaseModel

from tokenbounds.config import load as config_module
from tokenbounds.config.load import json_schema, load_config, parse_config
from tokenbounds.config.run import Config
from tokenbounds.config.schema import Row, Section, slice_of
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


def edited(key, value):
    """`MINIMAL` with one key changed, e.g. "tables.t.rows.0.model"; `value` None removes nothing, it sets
    null."""
    data = copy.deepcopy(MINIMAL)
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = data
    for part in path:
        place = place[part] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return data


def line_for(key, value):
    data = edited(key, value)
    if key.startswith("figures.f."):
        data["figures"]["f"].setdefault("kind", "size")
    with pytest.raises(InputError) as caught:
        parse_config(data, "run.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("run.yaml: ")
    return line.removeprefix("run.yaml: ")


def test_minimal_is_valid():
    assert parse_config(MINIMAL).run == "r"


def test_schema_file_is_the_schema(root):
    """docs/config.schema.json is generated: python -m tokenbounds.config.load (make schema)."""
    assert json.loads((root / "docs/config.schema.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(json_schema())
    )


def shipped(root):
    base = root / "config.yaml"
    return [[base], *([base, overlay] for overlay in sorted((root / "profiles").glob("*/config.yaml")))]


def test_shipped_configurations_are_valid(root):
    found = shipped(root)
    assert len(found) >= 3
    for paths in found:
        loaded = load_config(*paths)
        assert loaded.tables or loaded.figures
    assert load_config(root / "config.yaml").run == "paper"
    assert load_config(root / "config.yaml", root / "profiles/quickstart/config.yaml").run == "quickstart"


def test_profiles_name_their_own_overlay(root):
    for profile in sorted((root / "profiles").glob("*/profile.yaml")):
        overlay = profile.with_name("config.yaml")
        assert yaml.safe_load(profile.read_text()).get("configfile") == (
            str(overlay.relative_to(root)) if overlay.exists() else None
        )


def sections():
    found = [
        value
        for value in vars(config_module).values()
        if isinstance(value, type) and issubclass(value, BaseModel)
    ]
    return [value for value in found if value not in (BaseModel, Section)]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_section_is_closed_and_every_key_described(section):
    assert section.model_config["extra"] == "forbid" and section.model_config["frozen"]
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert field.description and field.description.endswith((".", "`")), f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("sede", 3, "seed"),
        ("sampling.contxt_length", 128, "context_length"),
        ("corpora.text.source.file", ["a"], "files"),
        ("corpora.text.tokenizer.train.vocabsize", 300, "vocab_size"),
        ("models.gpt.architecture.layer", 2, "layers"),
        ("models.gpt.training.learning_rat", 0.1, "learning_rate"),
        ("codecs.levels11.level", 3, "levels"),
        ("samplings.wide.windw", 3, "window"),
        ("tables.t.captoin", "x", "caption"),
        ("tables.t.rows.0.lable", "x", "label"),
        (
            "figures.f.series",
            [
                {
                    "label": "GPT",
                    "rows": [{"label": "a", "modle": "gpt", "codec": "levels11", "corpus": "text"}],
                }
            ],
            "model",
        ),
    ],
)
def test_misspelt_key(key, value, nearest):
    line = line_for(key, value)
    key, value = ("figures.f.series.0.rows.0.modle", "gpt") if key.startswith("figures") else (key, value)
    assert line.startswith(
        f"unknown key '{key}' (value {json.dumps(value)}); did you mean '{nearest}'?; valid keys: "
    )
    assert nearest in line.partition("valid keys: ")[2].split(", ")


def test_misspelt_key_with_a_long_value_and_nothing_near():
    line = line_for("zzz", list(range(1000)))
    assert (
        line.startswith("unknown key 'zzz' (value [0, 1, 2, ")
        and "did you mean" not in line
        and "..." in line
    )
    assert len(line) < 300


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("delta", 1.5, "delta: Input should be less than 1 (found 1.5)"),
        ("delta", 0, "delta: Input should be greater than 0 (found 0)"),
        (
            "seed",
            "x",
            'seed: Input should be a valid integer, unable to parse string as an integer (found "x")',
        ),
        ("sampling.n", 0, "sampling.n: Input should be greater than 0 (found 0)"),
        (
            "models.gpt.architecture.width",
            "wide",
            "models.gpt.architecture.width: Input should be a valid integer",
        ),
        (
            "models.gpt.family",
            "bert",
            'models.gpt.family: found "bert"; expected gpt or transformers or pretrained',
        ),
        ("bounds.alpha", [0.1, 0.0], "bounds.alpha.1: Input should be greater than 0 (found 0.0)"),
        ("bounds.alpha", [], "bounds.alpha: List should have at least 1 item"),
        ("tables.t.rows", [], "tables.t.rows: List should have at least 1 item"),
        (
            "corpora.text.tokenizer",
            {"train": {"vocab_size": 257}},
            "corpora.text.tokenizer.train.vocab_size: Input should be greater than",
        ),
    ],
)
def test_wrong_value(key, value, expected):
    assert line_for(key, value).startswith(expected)


@pytest.mark.parametrize(("key", "values"), [("bounds.alpha", [0.1, 0.5, 0.1]), ("bounds.top_k", [1, 1])])
def test_grid_with_a_value_twice(key, values):
    assert line_for(key, values) == f"{key}: grid {values} holds a value twice: it would be paid for twice"


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


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "models.gpt.corpus",
            "txt",
            "models.gpt.corpus: 'txt' is not defined; did you mean 'text'?; expected one of text",
        ),
        (
            "tables.t.rows.0.model",
            "gtp",
            "tables.t.rows[0].model: 'gtp' is not defined; did you mean 'gpt'?; expected one of gpt, gpt-2",
        ),
        (
            "tables.t.rows.0.codec",
            "zip",
            "tables.t.rows[0].codec: 'zip' is not defined; expected one of levels11",
        ),
        ("tables.t.rows.0.corpus", "x", "tables.t.rows[0].corpus: 'x' is not defined; expected one of text"),
        (
            "tables.t.rows.0.sampling",
            "x",
            "tables.t.rows[0].sampling: 'x' is not defined; expected one of token",
        ),
        (
            "samplings",
            {"token": {}},
            "samplings.token: this name means the scheme under `sampling`, choose another",
        ),
    ],
)
def test_cross_references(key, value, expected):
    assert line_for(key, value) == f"the configuration: {expected}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "tables.t.top_k",
            [1, 7, 99],
            "tables.t.top_k: no bound for k = 99; expected one of bounds.top_k, [1, 2, 3, 4,",
        ),
        (
            "bounds.top_k",
            [1, 100],
            "tables.t.top_k: no bound for k = 10; expected one of bounds.top_k, [1, 100]",
        ),
        (
            "scoring.parts",
            10001,
            "scoring.parts 10001 is more than the n = 10000 draws of sampling 'token' (tables.t.rows[0])",
        ),
        (
            "sampling",
            {"mode": "window", "window": 1025, "context_length": 2048},
            "tables.t.rows[0]: window 1025 of sampling 'window' is longer than context_length 1024 of models.gpt",
        ),
    ],
)
def test_sections_that_do_not_fit_together(key, value, expected):
    assert line_for(key, value).startswith(f"the configuration: {expected}")


def test_only_schemes_that_a_row_uses_must_fit():
    data = edited("samplings", {"wide": {"mode": "window", "window": 1025, "context_length": 2048, "n": 3}})
    data["scoring"] = {"parts": 4}
    assert parse_config(data).scoring.parts == 4
    data["tables"]["t"]["rows"][0]["sampling"] = "wide"
    with pytest.raises(InputError, match="window 1025 of sampling 'wide'"):
        parse_config(data)


def test_sequence_longer_than_the_context():
    line = line_for("models.gpt.training.sequence_length", 1025)
    assert line == "models.gpt: training.sequence_length 1025 is longer than the model's context_length 1024"


def test_cross_reference_in_a_figure():
    series = [
        {"label": "GPT", "rows": [{"label": "a", "model": "gpt", "codec": "levels12", "corpus": "text"}]}
    ]
    assert (
        "figures.f.series[0].rows[0].codec: 'levels12' is not defined; did you mean 'levels11'?"
        in line_for("figures", {"f": {"kind": "size", "series": series}})
    )


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


def test_missing_section():
    data = copy.deepcopy(MINIMAL)
    del data["models"]["gpt"]["training"]
    with pytest.raises(InputError, match=r"^config: 'models\.gpt\.training' is missing$"):
        parse_config(data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_not_a_mapping(data):
    with pytest.raises(InputError, match=r"^config: "):
        parse_config(data)


def test_null_removes(tmp_path):
    """An overlay takes away what the configuration below it has, whole entries and single keys."""
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(
        yaml.safe_dump(edited("sampling", {"n": 5, "mode": "window", "window": 4, "context_length": 16}))
    )
    overlay.write_text("models: {gpt-2: null}\nsampling: {mode: token, window: null}\nseed: 3\n")
    found = load_config(base, overlay)
    assert list(found.models) == ["gpt"]
    assert (found.sampling.mode, found.sampling.window, found.sampling.n, found.seed) == ("token", None, 5, 3)


def test_overlay_merges_mappings_and_replaces_lists(tmp_path):
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(yaml.safe_dump(edited("bounds", {"alpha": [0.1, 0.2], "top_k": [1, 10, 100]})))
    overlay.write_text("bounds: {alpha: [0.5]}\nmodels: {gpt: {training: {eval_every: 7}}}\n")
    found = load_config(base, overlay)
    assert (found.bounds.alpha, found.bounds.top_k) == ([0.5], [1, 10, 100])
    assert (found.models["gpt"].training.steps, found.models["gpt"].training.eval_every) == (1, 7)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        load_config(tmp_path / "absent.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("run: [")
    with pytest.raises(InputError, match=r"bad\.yaml: not valid YAML") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    path.write_text("- run\n")
    with pytest.raises(InputError, match=r"bad\.yaml: a list; expected keys with values"):
        load_config(path)


def test_schemes_contexts_names_and_what_they_cost():
    data = edited(
        "samplings",
        {
            "windows": {"mode": "window", "window": 4, "context_length": 8},
            "short": {"context_length": 16, "n": 7},
        },
    )
    found = parse_config(data)
    assert list(found.schemes) == ["token", "windows", "short"]
    assert found.contexts == {
        "token": {"mode": "token", "context_length": 1024},
        "windows": {"mode": "window", "context_length": 8, "window": 4},
        "short": {"mode": "token", "context_length": 16},
    }
    assert found.choices_bits() == {"sampling scheme": math.log2(3)}
    assert parse_config(MINIMAL).choices_bits() == {"sampling scheme": 0}
    row = {"label": "x", "model": "gpt", "codec": "levels11", "corpus": "text"}
    assert found.certificate_names(Row(**row)) == ["gpt.levels11.text.token"]
    assert found.certificate_names(Row(**row, sampling="short")) == ["gpt.levels11.text.short"]


def test_slice_is_plain_data_without_nulls():
    found = slice_of(parse_config(MINIMAL).models["gpt"], include={"family", "training"})
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == {"family", "training"}
    assert "sequence_length" not in found["training"]


def test_immutable():
    found = parse_config(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 3
    assert Config.model_config["frozen"]


SWEEP = {
    "family": "gpt",
    "corpus": "text",
    "architecture": {"layers": 1, "heads": 1, "width": 16},
    "structure": {"kind": "lora", "rank": 1},
    "training": {"steps": 600},
}


def swept(sweep, rows, **other):
    """The configuration with a model `lora` that has a sweep, and a table of rows."""
    data = copy.deepcopy(MINIMAL)
    data["models"]["lora"] = {**SWEEP, "sweep": sweep}
    data["tables"] = {"t": {"rows": [{"codec": "levels11", "corpus": "text", **row} for row in rows]}}
    return data | other


def test_sweep_over_every_combination():
    found = parse_config(
        swept(
            {"structure.rank": [2, 4], "training.learning_rate": [0.5, 1.0]},
            [{"label": "best", "model": "lora"}],
        )
    )
    names = ["lora-2-0_5", "lora-2-1_0", "lora-4-0_5", "lora-4-1_0"]
    assert list(found.models) == ["gpt", "gpt-2", *names]
    assert [
        (found.models[name].structure.rank, found.models[name].training.learning_rate) for name in names
    ] == [
        (2, 0.5),
        (2, 1.0),
        (4, 0.5),
        (4, 1.0),
    ]
    row = found.tables["t"].rows[0]
    assert row.model == names
    assert [found.candidates(name) for name in found.certificate_names(row)] == [4] * 4
    assert found.candidates("gpt.levels11.text.token") == 1


def test_sweep_over_points_with_a_row_each():
    sweep = [{"structure.rank": 1, "subspace.dimension": 10}, {"structure.rank": 3, "subspace.dimension": 20}]
    data = swept(sweep, [{"label": "r = {rank}, d = {dimension}", "model": "lora", "each": True}])
    data["bounds"] = {"candidates": 3}
    found = parse_config(data)
    assert [(row.label, row.model) for row in found.tables["t"].rows] == [
        ("r = 1, d = 10", ["lora-1-10"]),
        ("r = 3, d = 20", ["lora-3-20"]),
    ]
    assert found.models["lora-3-20"].subspace.dimension == 20
    assert found.candidates("lora-1-10.levels11.text.token") == 3


def test_sweep_in_a_figure():
    figures = {
        "f": {
            "kind": "parameters",
            "series": [{"label": "LoRA", "models": "lora"}, {"label": "both", "models": ["gpt", "lora"]}],
        }
    }
    found = parse_config(
        swept({"structure.rank": [1, 2]}, [{"label": "a", "model": "gpt"}], figures=figures)
    ).figures["f"]
    assert found.labels() == [
        ("LoRA", "lora-1"),
        ("LoRA", "lora-2"),
        ("both", "gpt"),
        ("both", "lora-1"),
        ("both", "lora-2"),
    ]


@pytest.mark.parametrize(
    ("sweep", "row", "message"),
    [
        ({}, {"model": "lora"}, "models.lora.sweep: {}; expected keys with lists of values"),
        ({"structure.rank": 3}, {"model": "lora"}, "expected keys with lists of values"),
        ([3], {"model": "lora"}, "expected keys with lists of values"),
        ({"structure.rank": [0]}, {"model": "lora"}, "models.lora-0.structure.rank: "),
        ({"structure.rnk": [1]}, {"model": "lora"}, "unknown key 'models.lora-1.structure.rnk'"),
        ({"structure.rank": [1]}, {"model": "lora-2"}, "did you mean 'lora-1'?"),
        (
            {"structure.rank": [1]},
            {"model": "gpt", "each": True},
            "each goes with a model or codec that has a sweep",
        ),
        (
            {"structure.rank": [1]},
            {"model": "lora", "each": True, "label": "{blocks}"},
            "expected only rank in braces",
        ),
    ],
)
def test_bad_sweeps(sweep, row, message):
    with pytest.raises(InputError) as error:
        parse_config(swept(sweep, [{"label": "a", **row}]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_members_of_sweeps_have_names_of_their_own():
    data = swept({"structure.rank": [4, 16]}, [{"label": "a", "model": "lora"}])
    data["models"]["lora-16"] = data["models"]["gpt"]
    with pytest.raises(
        InputError, match=r"models.lora.sweep: a member would be called 'lora-16', which is taken"
    ):
        parse_config(data)
    with pytest.raises(InputError, match="a member would be called 'lora-4', which is taken"):
        parse_config(swept([{"structure.rank": 4}, {"training.steps": 4}], [{"label": "a", "model": "lora"}]))
    data = swept({"structure.rank": [4]}, [{"label": "a", "model": "lora"}])
    data["models"]["lora"]["structure"] = "lora"
    with pytest.raises(
        InputError, match=r"'structure.rank' leads through structure: \"lora\"; expected a section"
    ):
        parse_config(data)


def test_candidates_count_models_and_codecs():
    data = swept(
        {"structure.rank": [1, 2, 3]},
        [{"label": "a", "model": "lora", "codec": "levels"}, {"label": "b", "model": "lora-2"}],
    )
    data["codecs"] = {**MINIMAL["codecs"], "levels": {"kind": "levels", "sweep": {"levels": [5, 7]}}}
    found = parse_config(data)
    assert found.codecs["levels-7"].levels == 7
    assert found.candidates("lora-2.levels-5.text.token") == 6
    assert found.candidates("lora-2.levels11.text.token") == 1


def test_heads_name_codecs_of_levels():
    data = copy.deepcopy(MINIMAL)
    data["codecs"]["head"] = {"kind": "alpha_head", "base": "levels12"}
    with pytest.raises(
        InputError, match=r"codecs.head.base: 'levels12' is not defined; did you mean 'levels11'"
    ):
        parse_config(data)
    data["codecs"]["head"] = {"kind": "alpha_head", "base": "levels11", "alpha_min": [0.1, 0.9]}
    with pytest.raises(InputError, match=r"alpha_min 0.9 is not below alpha_max 0.9"):
        parse_config(data)
    data["codecs"]["head"] = {"kind": "alpha_head", "base": "levels11"}
    row = {"label": "a", "model": "gpt", "corpus": "text"}
    data["figures"] = {"f": {"kind": "smoothing", "heads": [{**row, "codec": "levels11"}]}}
    with pytest.raises(
        InputError, match=r"figures.f.heads\[0\].codec: levels11; expected codecs of kind alpha_head"
    ):
        parse_config(data)
    data["figures"]["f"]["heads"][0]["codec"] = "head"
    data["samplings"] = {"windows": {"mode": "window", "window": 4, "n": 10, "context_length": 8}}
    data["figures"]["f"]["heads"][0]["sampling"] = "windows"
    with pytest.raises(
        InputError, match=r"heads\[0\].sampling: a scheme of mode window; expected single tokens"
    ):
        parse_config(data)
    del data["figures"]["f"]["heads"][0]["sampling"]
    found = parse_config(data)
    assert found.certificate_names(found.without_head(found.figures["f"].heads[0])) == [
        "gpt.levels11.text.token"
    ]


def test_tokenizers_of_other_corpora():
    data = copy.deepcopy(MINIMAL)
    data["corpora"]["second"] = {"source": {"files": ["b.txt"]}, "tokenizer": {"corpus": "text"}}
    assert parse_config(data).corpora["second"].tokenizer.corpus == "text"
    for wrong in ("second", "third"):
        data["corpora"]["second"]["tokenizer"]["corpus"] = wrong
        with pytest.raises(InputError, match=rf"corpora.second.tokenizer.corpus: '{wrong}' is not defined"):
            parse_config(data)


def test_models_that_start_from_another():
    data = copy.deepcopy(MINIMAL)
    llama = {
        "family": "transformers",
        "corpus": "text",
        "transformers": {"model_type": "llama"},
        "training": {"steps": 1, "warmup": 0},
    }
    data["models"] |= {"a": llama, "b": {**llama, "start_from": "a"}}
    assert parse_config(data).models["b"].start_from == "a"
    data["models"]["a"] = {**llama, "start_from": "b"}
    with pytest.raises(InputError, match=r"models.a.start_from: a -> b -> a is a circle"):
        parse_config(data)
    data["models"]["a"] = {**llama, "start_from": "c"}
    with pytest.raises(InputError, match=r"models.a.start_from: 'c' is not defined"):
        parse_config(data)


def test_published_models():
    data = copy.deepcopy(MINIMAL)
    data["models"]["p"] = {"family": "pretrained", "corpus": "text", "hub": "a/b", "revision": "0" * 40}
    assert parse_config(data).models["p"].longest is None
    data["figures"] = {"f": {"kind": "parameters", "series": [{"label": "a", "models": "p"}]}}
    with pytest.raises(InputError, match="'p' is not trained here; expected models with a training curve"):
        parse_config(data)
    for wrong in ({"folder": "x"}, {"revision": None}, {"hub": None}):
        with pytest.raises(InputError, match=r"models\.p"):
            parse_config(data | {"models": {**data["models"], "p": data["models"]["p"] | wrong}})


def test_a_section_of_no_known_kind():
    data = copy.deepcopy(MINIMAL)
    data["codecs"]["levels11"]["kind"] = "level"
    with pytest.raises(
        InputError, match=r'codecs.levels11.kind: found "level"; expected levels or lattice or alpha_head'
    ):
        parse_config(data)
    data["models"]["gpt"]["structure"] = {"rank": 3}
    data["codecs"]["levels11"]["kind"] = "levels"
    with pytest.raises(
        InputError, match=r"models.gpt.structure.kind: found null; expected lora or kronecker or monarch"
    ):
        parse_config(data)
