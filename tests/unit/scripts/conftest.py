"""Processes for the tests of scripts and launcher."""

import subprocess
import sys

import psutil
import pytest


@pytest.fixture
def sleeper():
    """Start a process with the given arguments after its code."""
    started = []

    def start(*arguments, cwd):
        code = "import sys, time; print(flush=True); time.sleep(600)"
        started.append(
            subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=cwd, stdout=subprocess.PIPE)
        )
        started[-1].stdout.readline()
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.communicate()
