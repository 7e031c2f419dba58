"""The training of one model of a run: its checkpoints lie in a folder that only the same training finds
again."""

import contextlib
import shutil
from importlib.metadata import version
from pathlib import Path

from tokenbounds.io.files import config_hash, read_json, sha256_file
from tokenbounds.training.loop import run


def train_model(weights, train_index, val_index, start, *, section, seed, code, gpus, checkpoint_minutes):
    """Train a model and write it to the folder of `weights`; a killed training continues from its last
    checkpoint.

    When it is done its checkpoints are removed, with those of any other configuration of this model.

    Parameters
    ----------
    weights : path
        ``{run}/models/{model}/model.safetensors``.
    train_index, val_index : path
        Indices of the tokens of both splits.
    start : path or empty
        Weights that the training starts from, if any.
    section : dict
        The model's section of the configuration.
    seed : int
        The run's seed.
    code : str
        Fingerprint of the code: with section, tokens, start and libraries it names the checkpoints' folder.
    gpus : int or None
        Number of GPUs that the job was given, which a profile may limit: no more processes are started. Their
        number changes rounding only.
    checkpoint_minutes : float
        Time between checkpoints; it changes no weight.
    """
    folder = Path(weights).parent
    shards = [read_json(index)["shards"] for index in (train_index, val_index)]
    started = sha256_file(start) if start else None
    libraries = {name: version(name) for name in ("torch", "numpy")}
    checkpoints = folder.parent.parent / "checkpoints" / folder.name
    if gpus and section["training"].get("processes", 1) > gpus:
        section = {**section, "training": {**section["training"], "processes": gpus}}
    key = config_hash([section, seed, shards, code, started, libraries])
    training = section["training"] | {"checkpoint_minutes": checkpoint_minutes}
    run(
        {
            "name": folder.name,
            "model": {**section, "training": training},
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
