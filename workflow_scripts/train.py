"""Train one model; a killed training continues from its last checkpoint."""

from pathlib import Path

from common import job

from tokenbounds.files import config_hash, read_json
from tokenbounds.training import run


def main(weights, train_index, val_index, model, seed):
    """Train the model that a configuration describes and write it to the folder of `weights`."""
    folder = Path(weights).parent
    key = config_hash([model, seed, read_json(train_index)["shards"]])
    run(
        {
            "name": folder.name,
            "model": model,
            "seed": seed,
            "train_tokens": str(Path(train_index).parent),
            "val_tokens": str(Path(val_index).parent),
            "out_dir": str(folder),
            "checkpoint_dir": str(folder.parent.parent / "checkpoints" / f"{folder.name}-{key}"),
        }
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.weights, snakemake.input.train, snakemake.input.val, snakemake.params.model, snakemake.params.seed)
