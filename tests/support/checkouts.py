"""Copies of the workflow, to run and to change."""

import contextlib
import json
import multiprocessing
import os
import pydoc_data.topics
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from filelock import FileLock

COPIED = ("Snakefile", "config.yaml", "rules", "workflow_scripts", "profiles", "tokenbounds")
OF_MEDIUM = (  # results of one model, to be removed
    "models/medium",
    "messages/medium.levels11.bin",
    "risk/medium.levels11.text.token",
    "bounds/medium.levels11.text.token.json",
)
TIMEOUT_SECONDS = 600  # of one run; the machine may be busy

# Importing Snakemake takes longer than a dry run does: a process that has it imported forks for each.
_READY = multiprocessing.get_context("forkserver")
_READY.set_forkserver_preload(["snakemake.cli"])


class Checkout:
    """A folder with the workflow, its documents and its results."""

    profile = "profiles/test"
    run_name = "test"

    def __init__(self, folder):
        self.folder = Path(folder)
        self.results = self.folder / "results" / self.run_name
        self.overlay = self.folder / self.profile / "config.yaml"
        # Scripts import the package of this folder, and the user's settings do not reach Snakemake.
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SNAKEMAKE_", "TOKENBOUNDS_"))
        }
        self.environment = kept | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        self.trace = self.folder.with_suffix(".trace")

    def run(self, *command, check=True):
        """Run Python in this folder and return its output, both streams together.

        With `check` it must succeed, without it must fail."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        arguments = [sys.executable, *map(str, command)]
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment, timeout=TIMEOUT_SECONDS, check=False, **pipes
        )
        assert (done.returncode == 0) == check, done.stdout
        return done.stdout

    def snakemake(self, *arguments, check=True):
        return self.run("-m", "snakemake", "--profile", self.profile, *arguments, check=check)

    def traced(self):
        """Let jobs write down the modules that they load (tests/support/trace); return this checkout."""
        self.trace.mkdir(exist_ok=True)
        path = os.pathsep.join([self.environment["PYTHONPATH"], str(Path(__file__).parent / "trace")])
        self.environment |= {"TOKENBOUNDS_TRACE": str(self.trace), "PYTHONPATH": path}
        return self

    def launch(self, *arguments, check=True):
        return self.run("workflow_scripts/launch.py", "--profile", self.profile, *arguments, check=check)

    @contextlib.contextmanager
    def launched(self):
        """Start the launcher as a process at the head of its own group, which is killed at the end."""
        command = [sys.executable, "workflow_scripts/launch.py", "--profile", self.profile]
        with open(self.folder / "launch.log", "w") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def launch_log(self):
        return (self.folder / "launch.log").read_text()

    def processes(self):
        """List the processes that work in this folder."""
        working = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()) == self.folder and process.status() != psutil.STATUS_ZOMBIE:
                    working.append(process)
        return working

    def dry_run(self, *arguments):
        """Return the output of a dry run, both streams together."""
        log = self.folder.with_suffix(".dry-run.log")
        command = ["--profile", self.profile, "--dry-run", *arguments]
        process = _READY.Process(target=_snakemake, args=(self.folder, self.environment, log, command))
        process.start()
        process.join(TIMEOUT_SECONDS)
        process.kill()
        assert process.exitcode == 0, log.read_text()
        return log.read_text()

    def planned(self):
        """List the jobs of a run now, as "rule wildcards", e.g. "score small.levels11.text.token.00000"."""
        output = self.dry_run()
        blocks = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, re.MULTILINE)
        jobs = [f"{rule} {'.'.join(wildcards(block))}" for rule, block in blocks if rule != "all"]
        assert len(set(jobs)) == len(jobs), jobs
        assert jobs or "Nothing to be done" in output, output
        return set(jobs)

    def change(self, key, value):
        """Set one key of the overlay, e.g. "models.small.training.steps"."""
        # Through JSON, which makes copies of an object that an anchor repeats.
        data = json.loads(json.dumps(yaml.safe_load(self.overlay.read_text())))
        *path, last = key.split(".")
        place = data
        for part in path:
            place = place.setdefault(part, {}) if isinstance(place, dict) else place[int(part)]
        place[int(last) if isinstance(place, list) else last] = value
        self.overlay.write_text(yaml.safe_dump(data, sort_keys=False))

    def remove(self, *names):
        """Remove results, by name below results/test."""
        for name in names:
            path = self.results / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def wait_for(self, condition, event, seconds=120, every=0.02):
        """Wait until `condition()`, called `every` so many seconds, is true and return its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(every)
        log = self.folder / "launch.log"
        raise AssertionError(f"{event}: not in {seconds} s\n{log.read_text() if log.exists() else ''}")


def _snakemake(folder, environment, log, arguments):
    """Run `snakemake` in this process, which then is none of the tests'."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(folder))
    with open(log, "w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    from snakemake.cli import main

    main(arguments)


def made_once(folder, make):
    """Let the first worker make a folder; `make(folder)` returns a text, which is kept beside it as .log."""
    log = folder.with_suffix(".log")
    with FileLock(folder.with_suffix(".lock")):
        if not log.exists():
            shutil.rmtree(folder, ignore_errors=True)
            log.write_text(make(folder))


def wildcards(block):
    """Return the values of a job's wildcards in Snakemake's output, but for the run."""
    line = next(line for line in block.splitlines() if line.startswith("    wildcards: run=test"))
    return re.findall(r"=([^,]+)", line)[1:]


def documents():
    """Return paragraphs of Python's reference: real text that needs no download."""
    paragraphs = [
        part.strip() for _, topic in sorted(pydoc_data.topics.topics.items()) for part in topic.split("\n\n")
    ]
    return [part for part in paragraphs if len(part) > 80][:600]


def make_checkout(folder, root):
    """Copy the workflow (not link: tests edit it) and write the documents."""
    folder.mkdir()
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    texts = folder / "resources" / "test"
    texts.mkdir(parents=True)
    paragraphs = documents()
    for number, text in enumerate(paragraphs[:200]):
        (texts / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    (texts / "rest.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in paragraphs[200:]), encoding="utf-8"
    )
    return Checkout(folder)
