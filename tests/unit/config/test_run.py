"""The whole configuration: cross references, sections that fit together, and the names of results."""

import copy
import json
import math

import pytest
from support.configurations import MINIMAL, edited, line_for, swept

from tokenbounds.config.load import parse_config
from tokenbounds.config.schema import Row
from tokenbounds.errors import InputError


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
            "tables.t.rows[0]: window 1025 of sampling 'window' is longer than "
            "context_length 1024 of models.gpt",
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


def test_cross_reference_in_a_figure():
    series = [
        {"label": "GPT", "rows": [{"label": "a", "model": "gpt", "codec": "levels12", "corpus": "text"}]}
    ]
    assert (
        "figures.f.series[0].rows[0].codec: 'levels12' is not defined; did you mean 'levels11'?"
        in line_for("figures", {"f": {"kind": "size", "series": series}})
    )


BASE = {
    "run": "test",
    "corpora": {"text": {"source": {"files": ["*.txt"]}, "tokenizer": {"train": {"vocab_size": 300}}}},
    "models": {
        "quip": {"family": "quip", "corpus": "text", "folder": "x"},
        "gpt": {
            "family": "gpt",
            "corpus": "text",
            "architecture": {"layers": 1, "heads": 1, "width": 8},
            "training": {"steps": 1000},
        },
    },
    "codecs": {"gzip": {"kind": "zip", "tool": "gzip"}, "levels": {"kind": "levels"}},
}


@pytest.mark.parametrize(
    "model, codec, message",
    [
        (
            "gpt",
            "gzip",
            "tables.t.rows[0].codec: 'gzip' codes a published model, whose files it compresses; "
            "'gpt' is of family gpt",
        ),
        (
            "quip",
            "levels",
            "tables.t.rows[0].codec: 'levels' codes a trained or published dense model; "
            "'quip' is of family quip",
        ),
        ("quip", "gzip", None),
    ],
)
def test_codecs_and_families_that_do_not_go_together(model, codec, message):
    config = json.loads(json.dumps(BASE))
    config["tables"] = {"t": {"rows": [{"label": "x", "model": model, "codec": codec, "corpus": "text"}]}}
    if message is None:
        assert parse_config(config).codecs["gzip"].tool == ["gzip"]
        return
    with pytest.raises(InputError) as caught:
        parse_config(config)
    assert str(caught.value) == f"config: the configuration: {message}"


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
    config = parse_config(data)
    assert config.certificate_names(config.without_head(config.figures["f"].heads[0])) == [
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


def test_tokenizers_of_models():
    data = copy.deepcopy(MINIMAL)
    data["models"]["file"] = {"family": "gguf", "corpus": "second", "path": "m.gguf"}
    data["corpora"]["second"] = {"source": {"files": ["b.txt"]}, "tokenizer": {"model": "file"}}
    assert parse_config(data).corpora["second"].tokenizer.model == "file"
    for wrong in ("gpt", "third"):
        data["corpora"]["second"]["tokenizer"]["model"] = wrong
        with pytest.raises(InputError, match=rf"corpora.second.tokenizer.model: '{wrong}' is not defined"):
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
    with pytest.raises(InputError, match=r"models.a.start_from: a -> b -> a is a cycle"):
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


def test_schemes_contexts_names_and_their_choice():
    data = edited(
        "samplings",
        {
            "windows": {"mode": "window", "window": 4, "context_length": 8},
            "short": {"context_length": 16, "n": 7},
        },
    )
    config = parse_config(data)
    assert list(config.schemes) == ["token", "windows", "short"]
    assert config.contexts("gpt") == {
        "arithmetic": {"dtype": "float32", "multiple": 64, "batch_tokens": 16384},
        "schemes": [
            {"mode": "token", "context_length": 1024},
            {"mode": "token", "context_length": 16},
            {"mode": "window", "context_length": 8, "window": 4},
        ],
    }
    assert config.context("short") == {"mode": "token", "context_length": 16}
    assert config.scheme("short") == {"mode": "token", "n": 7, "context_length": 16, "beacon": ""}
    assert config.choices_bits() == {"sampling scheme": math.log2(3)}
    assert parse_config(MINIMAL).choices_bits() == {"sampling scheme": 0}
    row = {"label": "x", "model": "gpt", "codec": "levels11", "corpus": "text"}
    assert config.certificate_names(Row(**row)) == ["gpt.levels11.text.token"]
    assert config.certificate_names(Row(**row, sampling="short")) == ["gpt.levels11.text.short"]


def test_candidates_count_models_and_codecs():
    data = swept(
        {"structure.rank": [1, 2, 3]},
        [{"label": "a", "model": "lora", "codec": "levels"}, {"label": "b", "model": "lora-2"}],
    )
    data["codecs"] = {**MINIMAL["codecs"], "levels": {"kind": "levels", "sweep": {"levels": [5, 7]}}}
    config = parse_config(data)
    assert config.codecs["levels-7"].levels == 7
    assert config.candidates("lora-2.levels-5.text.token") == 6
    assert config.candidates("lora-2.levels11.text.token") == 1
