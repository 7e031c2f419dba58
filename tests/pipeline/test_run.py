"""A finished run: every output is there, the tables and figures say what the certificates say, and a second
run does nothing."""

import csv

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tokenbounds.certificates.files import read_certificate
from tokenbounds.cli import main

NAMES = ("small.levels11.text.token", "medium.levels11.text.token", "small.levels11.text.windows")
STRUCTURED = (
    "lora-1.levels11.text.token",
    "lora-2.levels11.text.token",
    "monarch.levels11.text.token",
    "monarch.head.text.token",
)
ALL = (*NAMES, *STRUCTURED, "markov.counts.text.token", "sublora.levels5-tuned.text.documents")


@pytest.fixture(scope="module")
def certificates(finished):
    return {name: read_certificate(finished.results / "bounds" / f"{name}.json") for name in ALL}


def rows(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_every_output_and_nothing_torn(finished, finished_log):
    found = {
        str(path.relative_to(finished.results)) for path in finished.results.rglob("*") if path.is_file()
    }
    tables, figures = (
        ("table1", "table2", "table5", "table6", "table7", "table9"),
        ("figure1", "figure1-right", "figure2", "figure3", "figure4"),
    )
    expected = {f"tables/{table}.{suffix}" for table in tables for suffix in ("csv", "md", "tex")}
    expected |= {f"figures/{figure}.{suffix}" for figure in figures for suffix in ("csv", "pdf", "png")}
    expected |= {"figures/figure3.alpha.csv"}
    expected |= {f"bounds/{name}.json" for name in ALL}
    expected |= {
        f"risk/{name}/{part}.{suffix}"
        for name in ALL
        for part in ("00000", "00001")
        for suffix in ("parquet", "json")
    }
    assert {
        name for name in found if name.startswith(("tables/", "figures/", "bounds/", "risk/"))
    } == expected
    assert not [name for name in found if ".tmp" in name or name.startswith("checkpoints/")]
    for line in (
        "| GPT (small) ",
        "| Random guess ",
        "results/test/tables/table2.md",
        "results/test/bounds/*.json",
    ):
        assert line in finished_log


def test_every_job_has_a_log_without_errors(finished):
    logs = list((finished.results / "logs").rglob("*.log"))
    assert len(logs) == 77
    assert not [path for path in logs if "rror" in path.read_text()]


def test_table_says_what_the_certificates_say(finished, certificates):
    *lines, guess = rows(finished.results / "tables/table2.csv")
    assert [line["label"] for line in lines] == ["GPT (small)", "GPT (medium)", "GPT (small), windows"]
    assert [line["certificate"] for line in lines] == list(NAMES)
    for line, found in zip(lines, (certificates[name] for name in NAMES), strict=True):
        assert line["message_bytes"] == str(found["hypothesis"]["message_bytes"])
        assert (line["m_tokens"], line["n"]) == (str(found["m"]), str(found["n"]))
        for metric in ("bpd", "top1", "top10"):
            entry = found["metrics"][metric]
            assert float(line[f"{metric}_risk"]) == entry["empirical_risk"]
            assert all(
                float(line[f"{metric}_{method}"]) == bound["value"]
                for method, bound in entry["bounds"].items()
            )
    assert guess["label"] == "Random guess"
    assert float(guess["bpd_betting"]) == float(guess["bpd_risk"]) == np.log2(300)
    assert float(guess["top10_azuma"]) == pytest.approx(1 - 10 / 300)
    markdown = (finished.results / "tables/table2.md").read_text()
    lines = iter(markdown.splitlines())
    assert next(line for line in lines if line.startswith("| GPT (medium) "))
    betting = next(line for line in lines if " betting |" in line)
    assert f" {certificates[NAMES[1]]['metrics']['bpd']['bounds']['betting']['value']:.2f} |" in betting


def test_every_bound_is_at_least_its_risk(certificates):
    checked = 0
    for found in certificates.values():
        assert (found["delta"], found["vocab_size"], found["choices_bits"]) == (
            0.05,
            300,
            {"sampling scheme": np.log2(3)},
        )
        assert found["hypothesis"]["message_bits"] == 8 * found["hypothesis"]["message_bytes"]
        for metric, entry in found["metrics"].items():
            for bound in entry["bounds"].values():
                assert bound["value"] >= bound["empirical_risk"]
                if (
                    metric != "bpd"
                ):  # the BPD of a certificate is smoothed, which may lower the empirical risk
                    assert bound["value"] >= entry["empirical_risk"]
                assert bound["complexity_terms_bits"]["message"] == found["hypothesis"]["message_bits"]
                assert bound["complexity_terms_bits"]["sampling scheme"] == np.log2(3)
                checked += 1
    assert checked == 8 * (5 + 3 * 3) + 3 * 4
    assert certificates[NAMES[2]]["m"] % 16 == 0
    tokens = certificates[NAMES[2]]["corpus"]["tokens"]
    assert tokens - 16 < certificates[NAMES[2]]["m"] <= tokens


def test_a_row_of_a_sweep_is_its_best(finished, certificates):
    lines = {line["label"]: line for line in rows(finished.results / "tables/table1.csv")}
    lora = [certificates[name] for name in STRUCTURED[:2]]
    best = min(lora, key=lambda found: found["metrics"]["bpd"]["bounds"]["betting"]["value"])
    assert lines["LoRA"]["certificate"] == best["name"]
    assert [found["settings"]["candidates"] for found in lora] == [2, 2]
    assert all(
        found["metrics"]["bpd"]["bounds"]["betting"]["delta2"] == pytest.approx(0.999 * 0.05 / 2)
        for found in lora
    )
    each = rows(finished.results / "tables/table6.csv")
    assert [line["label"] for line in each] == ["LoRA, r = 1", "LoRA, r = 2", "Random guess"]
    assert lines["SubLoRA, documents"]["m_tokens"] == str(certificates[ALL[-1]]["corpus"]["documents"])


def test_generated_text(finished):
    """Of the best model of each row, as many samples as the configuration asks for."""
    *lines, guess = rows(finished.results / "tables/table9.csv")
    best = {line["label"]: line["certificate"] for line in rows(finished.results / "tables/table1.csv")}
    assert [line["certificate"] for line in lines] == 4 * [NAMES[0]] + 4 * [best["LoRA"]] + 4 * [
        best["SubLoRA, documents"]
    ]
    assert [(line["prompt"], line["sample"]) for line in lines] == 3 * [
        ("", "1"),
        ("", "2"),
        ("The `", "1"),
        ("The `", "2"),
    ]
    assert (
        all(line["text"].startswith(line["prompt"]) for line in lines)
        and len({line["text"] for line in lines}) == 12
    )
    assert all(int(line["tokens"]) == 80 or line["ended"] == "True" for line in lines)
    assert (guess["label"], guess["text"]) == ("Random guess", "")


def test_resampled_tokens(finished):
    """Table and figure show the same scores; the generator predicts what it drew better than the others
    do."""
    *models, correlation = rows(finished.results / "tables/table7.csv")
    assert [line["label"] for line in models] == ["GPT (small)", "GPT (medium)", "Monarch with a head"]
    assert correlation["label"] == "correlation" and all(
        line["scored"] == "150" and line["left_out"] == "0" for line in models
    )
    objective = [float(line["objective_bits"]) for line in models]
    assert min(objective) == objective[1]
    for column in ("text PPL", "mean PPL", "text ACC"):
        expected = np.corrcoef(objective, [float(line[column]) for line in models])[0, 1]
        assert float(correlation[column]) == pytest.approx(expected)
    drawn = rows(finished.results / "figures/figure2.csv")
    assert [float(line["y"]) for line in drawn if line["series"] == "objective_bits"] == objective
    assert sum(float(line["y"]) for line in drawn if line["panel"] == "histogram") == 60 * 16


def test_figures_of_structures(finished, certificates):
    lines = rows(finished.results / "figures/figure1-right.csv")
    assert [(line["series"], line["model"], line["trainable_parameters"]) for line in lines] == [
        ("LoRA", "lora-1", "672"),
        ("LoRA", "lora-2", "1296"),
        ("Monarch", "monarch", "2544"),
    ]
    (line,) = rows(finished.results / "figures/figure3.csv")
    assert (
        float(line["head"])
        == certificates["monarch.head.text.token"]["metrics"]["bpd"]["bounds"]["betting"]["value"]
    )
    base = certificates["monarch.levels11.text.token"]["metrics"]["bpd"]["bounds"]["betting"]["value"]
    assert float(line["constant"]) == pytest.approx(base, rel=1e-9)


def test_figure(finished, certificates):
    lines = rows(finished.results / "figures/figure1.csv")
    assert [(line["series"], line["certificate"]) for line in lines] == [("GPT", NAMES[0]), ("GPT", NAMES[1])]
    for line in lines:
        bounds = certificates[line["certificate"]]["metrics"]["bpd"]["bounds"]
        assert float(line["bpd_betting"]) == bounds["betting"]["value"]
        assert float(line["bpd_azuma"]) == bounds["azuma"]["value"]
    with Image.open(finished.results / "figures/figure1.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape[0] > 200 and pixels.shape[1] > 500
    assert 0.01 < (pixels < 200).mean() < 0.5  # lines and text on an empty page
    assert (finished.results / "figures/figure1.pdf").read_bytes().startswith(b"%PDF")


def test_certificates_verify(finished, capsys):
    """In another process layout than the run: this one, from another folder, items scored one at a time."""
    paths = [str(finished.results / "bounds" / f"{name}.json") for name in ALL]
    assert main(["verify", "--rescore", "20", *paths]) == 0
    output = capsys.readouterr().out
    assert "FAIL" not in output
    assert output.count("all checks held") == len(ALL)


def test_training_used_the_package_of_the_copy(finished):
    """Otherwise these tests would follow edits of the checkout only by chance."""
    assert (
        finished.run("-c", "import tokenbounds; print(tokenbounds.__file__)")
        .strip()
        .startswith(str(finished.folder))
    )


def test_again_does_nothing(finished):
    assert finished.planned() == set()


def test_launching_again_only_shows_the_tables(copy, finished):
    """Also in another folder than it was made in: nothing in the records of a run is an absolute path."""
    before = {path: path.stat().st_mtime_ns for path in copy.results.rglob("*") if path.is_file()}
    output = copy.launch()
    assert "Nothing to be done" in output
    assert (copy.results / "tables/table2.md").read_text() in output
    assert {path: path.stat().st_mtime_ns for path in copy.results.rglob("*") if path.is_file()} == before
    assert not [path for path in copy.results.rglob("*.json") if str(finished.folder) in path.read_text()]


def test_a_model_that_starts_from_another(copy):
    """Fine-tuning: its first weights are those of the other, so that no step with a tiny rate moves them."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = {
        "family": "transformers",
        "corpus": "text",
        "transformers": {"model_type": "llama", "max_position_embeddings": 64, **shape},
        "context_length": 64,
        "training": {"steps": 2, "warmup": 0, "dtype": "float32", "threads": 1, "eval_batches": 1},
    }
    copy.change("models.first", model)
    tuning = model["training"] | {"learning_rate": 1e-12, "weight_decay": 0}
    copy.change("models.second", {**model, "training": tuning, "start_from": "first"})
    copy.snakemake("results/test/models/second/model.safetensors")
    first, second = (
        load_file(copy.results / f"models/{name}/model.safetensors") for name in ("first", "second")
    )
    assert all(np.allclose(first[name], second[name], rtol=0, atol=1e-9) for name in first)
