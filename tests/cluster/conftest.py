"""A Slurm on this machine and a finished run through it, made once; tests that break something get a copy of
that run.

Starting the daemons writes to /etc/slurm, so it is done only on request: TOKENBOUNDS_TEST_CLUSTER=1, which
`make test-cluster` sets."""

import json
import os
import shutil

import psutil
import pytest
import yaml
from filelock import FileLock
from support.checkouts import Checkout, made_once, make_checkout
from support.slurm import Slurm, reason_not_to_start

PROFILE, STEPS = "profiles/test-slurm", 2000
# Settings of the shipped profile that do not hold here: long waits, an accounting database.
HERE = {
    "configfile": f"{PROFILE}/config.yaml",
    "latency-wait": 20,
    "max-status-checks-per-second": 1,
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": 1,
    "seconds-between-status-checks": 1,
    "slurm-partition-config": "profiles/slurm/partitions.yaml",
    # The other way to ask for a GPU, as the profile's comment has it.
    "set-resources": {"score": {"gpu": 0, "gres": "'gpu:1'"}},
}


class ClusterCheckout(Checkout):
    """A folder whose runs go through Slurm."""

    profile = PROFILE

    def change_profile(self, **changes):
        path = self.folder / PROFILE / "profile.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def put_first(self, program, text):
        """A program of ours in the place of one of Slurm's, for the runs of this checkout."""
        folder = self.folder / "programs"
        folder.mkdir(exist_ok=True)
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
        self.environment["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def script(self, target):
        """The process of the script that makes a target, e.g. "model=medium"; None where there is none."""
        for process in self.processes():
            try:
                if any(".snakemake/scripts/" in part for part in process.cmdline()):
                    commands = [" ".join(parent.cmdline()) for parent in process.parents()]
                    if any(target in command for command in commands):
                        return process
            except psutil.Error:
                continue
        return None

    def checkpoints(self, pattern="step-*.json"):
        """Files of the checkpoints of the model "medium"."""
        return sorted(self.results.glob(f"checkpoints/medium/*/{pattern}"))

    def certificates(self):
        """Results that must not depend on interruptions, by name."""
        files = [
            *self.results.glob("bounds/*.json"),
            *self.results.glob("messages/*.bin"),
            self.results / "tables/table2.csv",
        ]
        return {path.name: path.read_bytes() for path in files}


def overlay(root):
    """The two GPTs of the test profile from one shard, and nothing else of config.yaml."""
    paper = yaml.safe_load((root / "config.yaml").read_text())
    test = yaml.safe_load((root / "profiles/test/config.yaml").read_text())
    nothing = {
        section: dict.fromkeys(paper[section]) for section in ("corpora", "models", "tables", "figures")
    }
    # Long enough that a test finds it at work, on a fast machine and on a busy one.
    medium = test["models"]["medium"]
    test["models"]["medium"] = medium | {"training": medium["training"] | {"steps": STEPS}}
    rows = [
        {"label": model, "model": model, "codec": "levels11", "corpus": "text"}
        for model in ("small", "medium")
    ]
    return {
        **{key: test[key] for key in ("run", "sampling", "scoring", "bounds")},
        "corpora": nothing["corpora"] | {"text": test["corpora"]["text"] | {"shards": 1}},
        "models": nothing["models"] | {model: test["models"][model] for model in ("small", "medium")},
        "tables": nothing["tables"] | {"table2": {"caption": "Tiny GPTs", "rows": rows, "top_k": [1, 10]}},
        "figures": nothing["figures"],
    }


@pytest.fixture(scope="session")
def slurm(workers_folder, tmp_path_factory, root):
    """A Slurm that runs: the first worker starts it. The last stops it, and results/test-cluster/jobs.log
    says what it was given to do."""
    if not os.environ.get("TOKENBOUNDS_TEST_CLUSTER"):
        pytest.skip("starts Slurm's daemons: make test-cluster")
    lock, users = FileLock(workers_folder / "slurm.lock"), workers_folder / "slurm.json"
    with lock:
        state = json.loads(users.read_text()) if users.exists() else {"workers": 0}
        if not state["workers"]:
            if reason := reason_not_to_start():
                pytest.fail(reason)  # it was asked for
            state["folder"] = str(tmp_path_factory.mktemp("slurm"))
            try:
                Slurm(state["folder"]).start()
            except BaseException:
                Slurm(state["folder"]).stop()
                raise
        users.write_text(json.dumps(state | {"workers": state["workers"] + 1}))
    slurm = Slurm(state["folder"])
    yield slurm
    with lock:
        state = json.loads(users.read_text())
        state["workers"] -= 1
        users.write_text(json.dumps(state))
        if not state["workers"]:
            try:
                log = root / "results/test-cluster/jobs.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(slurm.log())
            finally:
                slurm.stop()


@pytest.fixture(scope="session")
def finished(slurm, workers_folder, root):
    """A finished run, made once for all workers; not to be changed."""

    def make(folder):
        make_checkout(folder, root)
        (folder / PROFILE).mkdir()
        shipped = yaml.safe_load((root / "profiles/slurm/profile.yaml").read_text())
        (folder / PROFILE / "profile.yaml").write_text(yaml.safe_dump(shipped | HERE))
        (folder / PROFILE / "config.yaml").write_text(yaml.safe_dump(overlay(root)))
        return ClusterCheckout(folder).launch()

    folder = workers_folder / "finished-on-slurm"
    made_once(folder, make)
    return ClusterCheckout(folder)


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, with its times, to change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return ClusterCheckout(tmp_path / "copy")
