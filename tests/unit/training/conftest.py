"""Fixtures of the tests of training."""

import numpy as np
import pytest
import torch
from support.stores import write_store
from support.trainings import EOT, VOCAB, chain


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """A folder with the token stores ``train`` and ``val`` of a chain."""
    folder = tmp_path_factory.mktemp("tokens")
    for split, tokens in (("train", chain(3000)), ("val", chain(500, seed=1))):
        documents = [part[:-1].tolist() for part in np.split(tokens, np.flatnonzero(tokens == EOT) + 1)[:-1]]
        write_store(folder / split, documents, VOCAB, EOT, split=split)
    return folder


@pytest.fixture
def threads():
    """The entry sets the number of threads: set it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
