"""Checkpoints of the transformers library that several test files read."""

import pytest
from support.causal_models import KINDS, library_model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function: the model of a kind and the folder to which the library saved it."""
    made = {}

    def checkpoint(kind):
        if kind not in made:
            model, folder = library_model(KINDS[kind]), tmp_path_factory.mktemp(kind)
            model.save_pretrained(folder)
            made[kind] = model, folder
        return made[kind]

    return checkpoint
