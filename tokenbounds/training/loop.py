"""Pretraining on a token store: AdamW, one process or several, timed checkpoints, exact resume.

A killed training that is started again ends in the same bytes as one that was never killed (on a CPU, with
the same number of threads; a GPU may add in another order and change the last bits): see
`tokenbounds.training.batches`. Which process computes a micro-batch changes nothing but rounding.

``python -m tokenbounds.training.loop SPEC.json`` trains as a specification (`Specification`) says, under
torchrun as one of its processes.
"""

import sys
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from tokenbounds.config.schema import Model, Section
from tokenbounds.config.schema.base import checked
from tokenbounds.config.schema.models import FAMILIES, TrainedSection
from tokenbounds.corpus.store import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json
from tokenbounds.training.distributed import process_group, torchrun, worker
from tokenbounds.training.run import Run

_TRAINED = {family: section for family, section in FAMILIES.items() if issubclass(section, TrainedSection)}


def _check_trained(model):
    if not model.trained:
        raise ValueError(_not_trained(model.family))
    return model


def _not_trained(family):
    return f"family {family!r} is not trained here; expected one of {', '.join(_TRAINED)}"


class Specification(Section):
    """One training: the model, its tokens and its folders."""

    name: str = Field(description="The model's name; it names random streams.")
    seed: int = Field(description="The run's seed.")
    model: Annotated[Model, AfterValidator(_check_trained)] = Field(description="As in the configuration.")
    train_tokens: str = Field(description="Folder of the token store to train on.")
    val_tokens: str = Field(description="Folder of the token store to validate on.")
    out_dir: str = Field(description="Folder of the trained model.")
    start_from: str | None = Field(None, description="Folder of the model whose weights are the first.")
    checkpoint_dir: str = Field(description="Folder of this training's checkpoints, shared with no other.")
    device: str = Field("auto", description="torch device, or auto: a GPU if there is one.")


def train(
    model,
    *,
    name,
    seed,
    train_tokens,
    val_tokens,
    out_dir,
    checkpoint_dir,
    start_from=None,
    device="auto",
    inputs=(),
):
    """Train a model from its configuration, or continue from the last checkpoint, and write it.

    Parameters
    ----------
    model : tokenbounds.config.schema.TrainedSection, or dict
        Family, architecture and training options.
    name : str
        The model's name; with `seed` it names the random streams.
    seed : int
        The run's seed.
    train_tokens, val_tokens : tokenbounds.corpus.store.TokenStore
        Or anything with ``m`` (tokens), ``vocab_size``, ``eot_id`` and ``tokens(start, stop)``.
    out_dir : path
        Gets ``model.safetensors``, ``config.json`` (hypothesis and provenance), ``curve.csv`` and
        ``curve.png``, when all is done.
    checkpoint_dir : path
        A folder of this training alone; its checkpoints are removed when all is done.
    start_from : path, optional
        Folder of a trained model of the same shape: its weights are the first.
    device : str
        A torch device, or ``"auto"``.
    inputs : iterable of path
        Files whose sha256 the provenance records.

    Returns
    -------
    dict
        The last row of the curve: step, tokens seen, losses in nats per token, learning rate, seconds.

    Raises
    ------
    InputError
        Too few tokens for one sequence, a loss or gradient that is not finite, a checkpoint of another
        training.
    SystemExit
        With status 143 after SIGTERM, once a checkpoint is written.

    Notes
    -----
    The number of threads of a matrix product changes its last bits and is the caller's to set; `run` does.
    """
    training = Run.resume_or_start(
        _section(model, f"model '{name}'"),
        name=name,
        seed=seed,
        train_tokens=train_tokens,
        val_tokens=val_tokens,
        checkpoint_dir=checkpoint_dir,
        start_from=start_from,
        device=device,
    )
    with training.attended():
        for step in training.steps():
            training.update(step)
            training.evaluate_if_due()
            training.show_progress()
            training.checkpoint_if_due()
    return training.write(out_dir, inputs)


def _section(model, context):
    """Check a model, a section or a dict, by its family's schema; an `InputError` begins with `context`."""
    family = model.get("family") if isinstance(model, dict) else model.family
    if family not in _TRAINED:
        raise InputError(f"{context}: {_not_trained(family)}")
    return checked(_TRAINED[family], model, context)


def run(spec):
    """Train as a specification says, in this process or in several that torchrun starts.

    The started processes die with this one.

    Parameters
    ----------
    spec : dict
        See `Specification`.

    Raises
    ------
    InputError
        Also one that was raised in a started process.
    SystemExit
        With status 143 after SIGTERM.
    """
    spec = checked(Specification, spec, "training specification")
    processes = spec.model.training.processes
    if processes == 1:
        _train(spec)
        return
    path = Path(spec.checkpoint_dir) / "spec.json"
    write_json(path, spec.model_dump())
    torchrun("tokenbounds.training.loop", path, processes)


def _train(spec: Specification):
    """Train in this process, alone or as one that torchrun started."""
    torch.set_num_threads(spec.model.training.threads)
    tokens = {"train_tokens": TokenStore(spec.train_tokens), "val_tokens": TokenStore(spec.val_tokens)}
    folders = {"out_dir": spec.out_dir, "checkpoint_dir": spec.checkpoint_dir, "start_from": spec.start_from}
    indices = [Path(folder) / "index.json" for folder in (spec.train_tokens, spec.val_tokens)]
    with process_group(spec.model.training.processes, spec.device) as device:
        train(spec.model, name=spec.name, seed=spec.seed, **tokens, **folders, device=device, inputs=indices)


def main(path):
    """Train as the specification in a file says, as a whole program; return the exit status."""
    return worker(lambda: _train(checked(Specification, read_json(path), path)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
