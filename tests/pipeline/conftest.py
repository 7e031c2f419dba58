"""A copy of the workflow with one finished run of profiles/test, made once; tests that change something get a copy of that."""

import os
import shutil

import pytest
from checkouts import Checkout, make_checkout
from filelock import FileLock


@pytest.fixture(scope="session")
def finished(tmp_path_factory, root):
    """A finished run; not to be changed. The workers of one pytest-xdist session share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, log = shared / "finished", shared / "finished.log"
    with FileLock(shared / "finished.lock"):
        if not log.exists():
            shutil.rmtree(folder, ignore_errors=True)
            output = make_checkout(folder, root).launch()
            log.write_text(output)
    return Checkout(folder)


@pytest.fixture(scope="session")
def finished_log(finished):
    """What the launcher printed for the finished run."""
    return finished.folder.with_suffix(".log").read_text()


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, with its times, to change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Checkout(tmp_path / "copy")
