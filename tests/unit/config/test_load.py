"""Reading the configuration: overlays, nulls, and one line for an unknown, missing or wrong key."""

import copy
import json

import pytest
import yaml
from support.configurations import MINIMAL, edited, line_for

from tokenbounds.config.load import load_config, parse_config
from tokenbounds.errors import InputError


def test_minimal_is_valid():
    assert parse_config(MINIMAL).run == "r"


def shipped(root):
    base = root / "config.yaml"
    return [[base], *([base, overlay] for overlay in sorted((root / "profiles").glob("*/config.yaml")))]


def test_shipped_configurations_are_valid(root):
    files = shipped(root)
    assert len(files) >= 3
    for paths in files:
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
    config = load_config(base, overlay)
    assert list(config.models) == ["gpt"]
    sampling = config.sampling
    assert (sampling.mode, sampling.window, sampling.n, config.seed) == ("token", None, 5, 3)


def test_a_glob_removes_all_that_match():
    data = copy.deepcopy(MINIMAL)
    data["tables"] = {}
    data["models"] |= {"gpt2-a": {"family": "no"}, "gpt2-b": 3, "gpt2-*": None, "gpt": None}
    assert list(parse_config(data).models) == ["gpt-2"]


def test_overlay_merges_mappings_and_replaces_lists(tmp_path):
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(yaml.safe_dump(edited("bounds", {"alpha": [0.1, 0.2], "top_k": [1, 10, 100]})))
    overlay.write_text("bounds: {alpha: [0.5]}\nmodels: {gpt: {training: {eval_every: 7}}}\n")
    config = load_config(base, overlay)
    assert (config.bounds.alpha, config.bounds.top_k) == ([0.5], [1, 10, 100])
    assert (config.models["gpt"].training.steps, config.models["gpt"].training.eval_every) == (1, 7)


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


def test_a_section_of_no_known_kind():
    data = copy.deepcopy(MINIMAL)
    data["codecs"]["levels11"]["kind"] = "level"
    with pytest.raises(
        InputError, match=r'codecs.levels11.kind: found "level"; expected levels or sequential or lattice'
    ):
        parse_config(data)
    data["models"]["gpt"]["structure"] = {"rank": 3}
    data["codecs"]["levels11"]["kind"] = "levels"
    with pytest.raises(
        InputError, match=r"models.gpt.structure.kind: found null; expected lora or kronecker or monarch"
    ):
        parse_config(data)
