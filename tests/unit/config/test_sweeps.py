"""Sweeps: members, rows, and labels."""

import pytest
from support.configurations import swept

from tokenbounds.config.load import parse_config
from tokenbounds.errors import InputError


def test_sweep_over_every_combination():
    config = parse_config(
        swept(
            {"structure.rank": [2, 4], "training.learning_rate": [0.5, 1.0]},
            [{"label": "best", "model": "lora"}],
        )
    )
    names = ["lora-2-0_5", "lora-2-1_0", "lora-4-0_5", "lora-4-1_0"]
    assert list(config.models) == ["gpt", "gpt-2", *names]
    assert [
        (config.models[name].structure.rank, config.models[name].training.learning_rate) for name in names
    ] == [
        (2, 0.5),
        (2, 1.0),
        (4, 0.5),
        (4, 1.0),
    ]
    row = config.tables["t"].rows[0]
    assert row.model == names
    assert [config.candidates(name) for name in config.certificate_names(row)] == [4] * 4
    assert config.candidates("gpt.levels11.text.token") == 1


def test_sweep_over_points_with_a_row_each():
    sweep = [{"structure.rank": 1, "subspace.dimension": 10}, {"structure.rank": 3, "subspace.dimension": 20}]
    data = swept(sweep, [{"label": "r = {rank}, d = {dimension}", "model": "lora", "each": True}])
    data["bounds"] = {"candidates": 3}
    config = parse_config(data)
    assert [(row.label, row.model) for row in config.tables["t"].rows] == [
        ("r = 1, d = 10", ["lora-1-10"]),
        ("r = 3, d = 20", ["lora-3-20"]),
    ]
    assert config.models["lora-3-20"].subspace.dimension == 20
    assert config.candidates("lora-1-10.levels11.text.token") == 3


def test_sweep_in_a_figure():
    figures = {
        "f": {
            "kind": "parameters",
            "series": [{"label": "LoRA", "models": "lora"}, {"label": "both", "models": ["gpt", "lora"]}],
        }
    }
    config = parse_config(
        swept({"structure.rank": [1, 2]}, [{"label": "a", "model": "gpt"}], figures=figures)
    )
    assert config.figures["f"].spec(config)["labels"] == [
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
