"""A copy of the workflow with one finished run of profiles/test, made once; tests that change something get a
copy of that."""

import shutil

import pytest
from support.checkouts import Checkout, made_once, make_checkout


@pytest.fixture(scope="session")
def finished(workers_folder, root):
    """A finished run; not to be changed. The workers of one pytest-xdist session share it."""
    folder = workers_folder / "finished"
    made_once(folder, lambda folder: make_checkout(folder, root).traced().launch())
    return Checkout(folder)


@pytest.fixture(scope="session")
def finished_log(finished):
    """Output of the launcher for the finished run."""
    return finished.folder.with_suffix(".log").read_text()


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, with its times, to change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Checkout(tmp_path / "copy")
