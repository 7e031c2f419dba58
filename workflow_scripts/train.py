"""Train one model; a killed training continues from its last checkpoint."""

import contextlib
import shutil
from importlib.metadata import version
from pathlib import Path

from common import job

from tokenbounds.config import parse_config
from tokenbounds.files import config_hash, read_json, sha256_file
from tokenbounds.training import run


def main(weights, train_index, val_index, package, *, model, seed, checkpoint_minutes, start=None, gpus=None):
    """Train the model that a configuration describes, from the weights in `start` if given, and write it to the folder of `weights`.

    Its checkpoints are found again only by the same configuration, tokens, code (the modules `package`) and libraries. When it is done they
    are removed, with those of any other configuration of this model.

    `gpus` is how many the job was given, which a profile may limit: no more processes are started. Their number changes rounding only.
    """
    if gpus and model["training"].get("processes", 1) > gpus:
        model = {**model, "training": {**model["training"], "processes": gpus}}
    folder = Path(weights).parent
    shards = [read_json(index)["shards"] for index in (train_index, val_index)]
    code = {str(path): sha256_file(path) for path in (*package, *([start] if start else []))}
    key = config_hash([model, seed, shards, code, {name: version(name) for name in ("torch", "numpy")}])
    checkpoints = folder.parent.parent / "checkpoints" / folder.name
    run(
        {
            "name": folder.name,
            "model": {**model, "training": {**model["training"], "checkpoint_minutes": checkpoint_minutes}},
            "seed": seed,
            "train_tokens": str(Path(train_index).parent),
            "val_tokens": str(Path(val_index).parent),
            "out_dir": str(folder),
            "checkpoint_dir": str(checkpoints / key),
            "start_from": str(Path(start).parent) if start else None,
        }
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    with contextlib.suppress(OSError):  # other models' are in it
        checkpoints.parent.rmdir()


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.output.weights,
            snakemake.input.train,
            snakemake.input.val,
            snakemake.input.package,
            **snakemake.params,
            start=snakemake.input.get("start"),
            gpus=snakemake.resources.get("gpu"),
            checkpoint_minutes=parse_config(snakemake.config).models[snakemake.wildcards.model].training.checkpoint_minutes,
        )
