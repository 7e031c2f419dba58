"""Real antibody families and OAS data units go through the workflow to certificates that verify, and a table
with validation losses."""

import json

import pandas as pd
import pytest
from support.checkouts import make_checkout

SHAPE = {
    "model_type": "mistral",
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture
def checkout(tmp_path, root, shared):
    made = make_checkout(tmp_path / "antibodies", root)
    data = shared / "data/oas"
    vocabulary = (data / "vocab.txt").read_text().splitlines()
    sources = {
        "families": {"families": [str(data / "derived_clonal_families/families/*.csv")]},
        "units": {
            "units": [str(data / "units/*.csv.gz")],
            "min_family": 10,
        },  # a sample of a subject's sequences has small families
    }
    training = {
        "steps": 30,
        "batch_size": 8,
        "learning_rate": 1.0e-2,
        "warmup": 5,
        "eval_every": 10,
        "eval_batches": 2,
    }
    for name, source in sources.items():
        corpus = {
            "source": {"antibodies": source},
            "tokenizer": {"vocabulary": vocabulary},
            "eot": "[SEP]",
            "split": {"val": 0.1, "seed": 1},
        }
        model = {
            "family": "transformers",
            "corpus": name,
            "context_length": 64,
            "start_token": "always",
            "transformers": SHAPE,
            "training": {**training, "dtype": "float32", "threads": 1},
        }
        made.change(f"corpora.{name}", corpus)
        made.change(f"models.tiny-{name}", model)
    rows = [
        {"label": f"Mistral, {name}", "model": f"tiny-{name}", "codec": "levels11", "corpus": name}
        for name in sources
    ]
    made.change("scoring.parts", 1)
    made.change(
        "tables.table4", {"caption": "Antibodies", "top_k": [1, 10], "validation_loss": True, "rows": rows}
    )
    return made


def test_real_antibodies(checkout):
    checkout.launch("results/test/tables/table4.md")

    counts = json.loads((checkout.results / "tokens/families/families.json").read_text())["counts"]
    assert counts["files"] == 412 and counts["families"] == 38  # of 25 members or more
    counts = json.loads((checkout.results / "tokens/units/families.json").read_text())["counts"]
    assert (counts["units"], counts["sequences"], counts["families"]) == (2, 3204, 7)

    table = pd.read_csv(checkout.results / "tables/table4.csv").set_index("label")
    for name in ("families", "units"):
        index = json.loads((checkout.results / f"tokens/{name}/train/index.json").read_text())
        assert index["vocab_size"] == 29
        certificate = checkout.results / f"bounds/tiny-{name}.levels11.{name}.token.json"
        assert "all checks held" in checkout.run("-m", "tokenbounds.cli", "verify", certificate)
        found = json.loads(certificate.read_text())
        assert found["m"] == index["m_tokens"]
        assert sorted(found["metrics"]) == ["bpd", "top1", "top10"]  # 100 of 29 tokens bounds nothing
        trained = json.loads((checkout.results / f"models/tiny-{name}/config.json").read_text())[
            "provenance"
        ]["final"]
        assert table.loc[f"Mistral, {name}", "val_loss_nats"] == pytest.approx(
            trained["val_loss_nats"], rel=1e-12
        )
        assert f"{trained['val_loss_nats']:.3f} |" in (checkout.results / "tables/table4.md").read_text()
    guesses = table[table.index.str.startswith("Random guess")]
    assert guesses["val_loss_nats"].tolist() == pytest.approx([3.3673, 3.3673], abs=1e-4)
