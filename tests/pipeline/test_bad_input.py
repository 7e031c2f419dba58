"""Bad input ends the run with one line that names the file or key, the value and what was expected; nothing
half-written stays."""

import os
import re
import shutil

import torch
from safetensors.torch import load_file, save_file
from support.damage import flip, keep_times, refused

from tokenbounds.codecs.decode import encode_model, read_message, write_message
from tokenbounds.models.folders import save_model
from tokenbounds.models.gpt import GPT

RESULTS = "results/test"
CHANGED = r"changed since it was written \(sha256 \w+\.\.\., expected \w+\.\.\.\)"


def test_misspelt_key(copy):
    copy.change("models.small.training.learning_rat", 0.1)
    key = (
        r"unknown key 'models\.small\.training\.learning_rat' \(value 0\.1\); did you mean 'learning_rate'\?"
    )
    line = rf".*config\.yaml: {key}; valid keys: .*"
    assert re.fullmatch("error: " + line, copy.launch(check=False).strip())
    output = copy.snakemake("--dry-run", check=False)
    assert re.search(line, output)
    assert "Traceback (most recent call last)" not in output


def test_package_that_is_not_installed(copy):
    copy.change("corpora.text.source", {"installed": ["no-such-package"]})
    refused(
        copy,
        r"error: corpora\.text\.source\.installed: no package "
        r"'no-such-package' is installed in this environment",
    )


def test_corpus_without_documents(copy):
    copy.change("corpora.text.source", {"files": ["resources/empty.jsonl"]})
    (copy.folder / "resources/empty.jsonl").write_text("\n")
    line = (
        r"error in rule documents: corpora\.text: no documents in 1 files "
        r"\(resources/empty\.jsonl, \.\.\.\); a corpus cannot be empty"
    )
    refused(copy, line, absent=["tokens/text/documents.json", "tokens/text/roles.bin"])


def test_files_that_are_not_there(copy):
    copy.change("corpora.text.source", {"files": ["resources/nothing/*.txt"]})
    refused(
        copy, r"error in rule documents: source\.files: 'resources/nothing/\*\.txt' matches no file \(in .*\)"
    )


def test_document_without_text(copy):
    (copy.folder / "resources/test/007.txt").write_text("")
    shards = [
        f"tokens/text/{split}/00000{end}"
        for split in ("train", "val")
        for end in (".bin", ".ends.bin", ".json")
    ]
    refused(copy, r"error in rule \w+: .*resources/test/007\.txt.*empty.*", absent=shards)


def test_truncated_shard(copy):
    shard = copy.results / "tokens/text/train/00001.bin"
    size = shard.stat().st_size
    os.truncate(shard, size - 2)
    line = (
        rf"error in rule index: {RESULTS}/tokens/text/train/00001\.bin: "
        rf"{size - 2} bytes, expected {size} \(truncated\?\)"
    )
    refused(copy, line, absent=["tokens/text/train/index.json", "tokens/text/train/ends.bin"])


def test_shard_edited_after_indexing(copy):
    keep_times(copy.results / "tokens/text/train/00001.bin", flip)
    copy.remove("risk", "bounds", "tables", "figures")
    line = rf"error in rule score: {RESULTS}/tokens/text/train/00001\.bin: {CHANGED}"
    output = refused(
        copy,
        line,
        absent=[
            "bounds",
            "risk/small.levels11.text.token/00000.parquet",
            "risk/medium.levels11.text.token/00000.parquet",
        ],
    )
    assert "rule index" not in output  # Snakemake itself saw nothing


def test_more_draws_than_documents(copy):
    copy.change("samplings.documents.n", 10**6)
    line = (
        rf"error in rule score: {RESULTS}/tokens/text/train: n = 1000000 draws from \d+ documents "
        r"\(m = \d+ tokens\); expected at most \d+"
    )
    refused(copy, line)  # of both parts the same


def test_nan_in_a_model_and_a_truncated_message(copy):
    """Two independent errors in one run that keeps going: both are repeated at the end, each once although
    two parts met it."""
    weights = copy.results / "models/small/model.safetensors"
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[3] = torch.nan
    save_file(tensors, weights)
    message = copy.results / "messages/medium.levels11.bin"
    size = message.stat().st_size
    os.truncate(message, size - 1)
    refused(
        copy,
        rf"error in rule message: {RESULTS}/models/small/model\.safetensors: "
        rf"tensor '{re.escape(name)}' holds 1 values that are NaN .*",
        rf"error in rule score: {RESULTS}/messages/medium\.levels11\.bin: "
        rf"truncated message \({size - 1} bytes; expected {size}\)",
        absent=[
            "messages/small.levels11.bin",
            "messages/small.levels11.json",
            "risk/medium.levels11.text.token/00000.parquet",
        ],
        arguments=["--keep-going", f"{RESULTS}/tables/table2.md"],
    )


def test_message_of_a_model_with_another_vocabulary(copy):
    message = copy.results / "messages/medium.levels11.bin"
    folder = copy.folder / "other"
    architecture = {
        "layers": 1,
        "heads": 1,
        "width": 8,
        "context_length": 64,
        "positions": "rotary",
        "bias": False,
    }
    config = {
        "family": "gpt",
        "vocab_size": 200,
        "architecture": architecture,
        "start_token": "first",
        "eot_id": 0,
    }
    save_model(folder, GPT(architecture, 200).initialize(0), config, {})
    write_message(message, encode_model(folder, {"kind": "levels"}, read_message(message).config["contexts"]))
    reason = "the model predicts 200 tokens; expected the corpus' vocabulary of 300"
    refused(
        copy,
        rf"error in rule score: {RESULTS}/messages/medium\.levels11\.bin: {reason}",
        arguments=[f"{RESULTS}/tables/table2.md"],
        absent=[
            "risk/medium.levels11.text.token/00000.parquet",
            "risk/medium.levels11.text.token/00000.json",
        ],
    )


def test_records_of_another_message(copy):
    """A smaller message under the name of the one that was scored would give a bound that is too small."""
    copy.remove("bounds/medium.levels11.text.token.json", "tables", "figures")
    small, medium = (copy.results / f"messages/{name}.levels11.bin" for name in ("small", "medium"))
    keep_times(medium, lambda path: shutil.copyfile(small, path))
    line = (
        rf"error in rule bound: {RESULTS}/risk/medium\.levels11\.text\.token/00000\.parquet: "
        rf"computed from another medium\.levels11\.bin "
        r"\(sha256 \w+\.\.\.\), expected the present one \(sha256 \w+\.\.\.\)"
    )
    output = refused(copy, line, absent=["bounds/medium.levels11.text.token.json", "tables/table2.csv"])
    assert "rule score" not in output


def test_edited_records(copy):
    copy.remove("bounds/medium.levels11.text.token.json", "tables", "figures")
    keep_times(copy.results / "risk/medium.levels11.text.token/00001.parquet", flip)
    line = rf"error in rule bound: {RESULTS}/risk/medium\.levels11\.text\.token/00001\.parquet: {CHANGED}"
    refused(copy, line, absent=["bounds/medium.levels11.text.token.json"])
