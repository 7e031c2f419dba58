"""A run folder with certificates, and a copy of it to damage."""

import shutil

import pytest
import torch
from support.runs import write_run


@pytest.fixture(scope="session")
def untouched(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(untouched, tmp_path):
    """A copy to damage."""
    shutil.copytree(untouched, tmp_path / "run")
    return tmp_path / "run"
