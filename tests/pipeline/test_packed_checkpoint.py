"""A QuIP# checkpoint in a folder goes through the workflow.

It is sized by a real compressor, sanity-checked, scored from its packed files, and verified.
"""

import json
import subprocess

from support.damage import flip, keep_times, refused
from support.quip_checkpoints import CONFIG, random_tensors, write_checkpoint

NAME = "quip.gzip.text.token"


def test_quip_checkpoint(copy):
    config = {
        **CONFIG,
        "vocab_size": 304,
        "max_position_embeddings": 64,
    }  # more rows than the 300 tokens of the corpus
    folder = write_checkpoint(copy.folder / "resources/quip", config, random_tensors(config), shards=2)
    copy.change("models.quip", {"family": "quip", "corpus": "text", "folder": "resources/quip"})
    copy.change("codecs.gzip", {"kind": "zip", "tool": "gzip"})
    copy.change(
        "tables.table2.rows", [{"label": "QuIP#", "model": "quip", "codec": "gzip", "corpus": "text"}]
    )
    targets = ("results/test/tables/table2.md",)

    # Random codes are no language model, and the sanity check says so before anything is scored.
    line = (
        r"error in rule score: quip\.gzip: [\d.]+ bits per token on 20 "
        r"documents; expected at most 2\.7\d, a third of the random guess: .*"
    )
    refused(copy, line, absent=(f"bounds/{NAME}.json",), arguments=targets)
    check = json.loads((copy.results / "sanity_checks/quip.gzip.json").read_text())
    assert check["bad"] and check["bits_per_token"] > check["random_guess"]

    copy.change("accept_bad_models", True)
    copy.launch(*targets)
    assert (
        f"QuIP# [suspect: {check['bits_per_token']:.1f} bits on 20 documents]"
        in (copy.results / "tables/table2.md").read_text()
    )
    found = json.loads((copy.results / f"bounds/{NAME}.json").read_text())
    names = [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    archive = subprocess.run(
        [
            "tar",
            "--format=gnu",
            "--mode=0644",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-cf",
            "-",
            *names,
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    gzipped = subprocess.run(["gzip", "-n", "-c"], input=archive, stdout=subprocess.PIPE, check=True).stdout
    frame = (copy.results / "messages/quip.gzip.bin").stat().st_size
    assert found["hypothesis"]["message_bytes"] == frame + len(gzipped)
    assert frame < 2000  # names, hashes and contexts
    command = ("-m", "tokenbounds.cli", "verify", "--rescore", "5", f"results/test/bounds/{NAME}.json")
    assert "all checks held" in copy.run(*command)

    # The files that are scored must be those that were sized: a byte of a shard that changes behind
    # Snakemake's back is found by verify, and by a scoring job.
    keep_times(folder / "model-00002-of-00002.safetensors", flip)
    assert "not the file that" in copy.run(*command, check=False)
    copy.change("sampling.n", 301)
    refused(
        copy,
        r"error in rule score: .*model-00002-of-00002\.safetensors: not the file that .*",
        arguments=targets,
    )
