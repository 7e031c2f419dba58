"""Run Snakemake so that one command is enough, also after a run was cut off.

`make quickstart`, `make run` and `make resume` call it.

A killed run leaves a lock behind, and on a cluster jobs that go on without it. If no Snakemake works in this
checkout any more, these jobs are cancelled and the lock is removed. Half-written files are removed and
incomplete outputs made again (the profiles say rerun-incomplete). At the end the tables are printed, or the
errors repeated, one line each.

Only processes of this machine are seen. While it lasts, a run therefore leaves a note of its machine, so that
a launcher on another machine with the same file system does not take it for dead."""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from common import is_snakemake

from tokenbounds.config.load import load_config
from tokenbounds.errors import InputError
from tokenbounds.io.files import remove_temporaries

ROOT = Path(__file__).resolve().parent.parent
STATE = Path(".snakemake")
HOST_NOTE = STATE / "launched-on"
RUN_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
CANCEL_SECONDS = 600  # a node needs a while to end a job's processes


class Refused(Exception):
    """Reason in one line for starting nothing."""


def running(heads_only=False):
    """List the process numbers of the Snakemake runs whose working directory is this checkout.

    With `heads_only`, leave out those that other runs started."""
    numbers = []
    for process in psutil.process_iter():
        try:
            if (
                is_snakemake(process)
                and Path(process.cwd()) == ROOT
                and not (heads_only and "--mode" in process.cmdline())
            ):
                numbers.append(process.pid)
        except psutil.Error:
            continue
    return numbers


def slurm_jobs():
    """List the numbers of this user's Slurm jobs, not yet ended, that Snakemake submitted from this checkout.

    The name of such a job ends with the UUID of its run. The user's other jobs are left alone, among them one
    that this very command may run in."""
    command = ["squeue", "--me", "--noheader", "--format=%i|%j|%Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        raise Refused("squeue gives no answer; jobs of an earlier run may still be there") from None
    if done.returncode:
        left = "some of an earlier run may still be there"
        raise Refused(f"squeue gives no list of jobs ({done.stderr.strip():.200}); {left}")
    lines = (line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2)
    return [
        number for number, name, folder in lines if RUN_UUID.search(name) and Path(folder).resolve() == ROOT
    ]


def cancel_slurm_jobs():
    """Cancel the jobs that a killed run left behind, and wait until their processes are gone.

    A new job must not write a file that an old one still writes."""
    if not (STATE / "slurm_logs").exists() or shutil.which("squeue") is None or not (orphans := slurm_jobs()):
        return
    print(f"a run was cut off here: cancelling its Slurm jobs {', '.join(orphans)}")
    subprocess.run(["scancel", *orphans], timeout=120)
    end = time.monotonic() + CANCEL_SECONDS
    while left := slurm_jobs():
        if time.monotonic() > end:
            jobs = f"the Slurm jobs {', '.join(left)} of an earlier run"
            raise Refused(f"{jobs} were cancelled and do not end; ask what their node is doing")
        time.sleep(2)


def clear(snakemake):
    """Remove the jobs and the lock of an earlier run; raise `Refused` if one is still at work."""
    if HOST_NOTE.exists() and (host := HOST_NOTE.read_text(encoding="utf-8")) != platform.node():
        advice = f"end it there, or if that machine is gone remove {ROOT / HOST_NOTE}"
        raise Refused(f"a run was started on {host} and has not ended; {advice}")
    if not running(heads_only=True):
        cancel_slurm_jobs()
    if others := running():
        raise Refused(f"Snakemake is already running in {ROOT} (process {others[0]}); wait for it or stop it")
    locks = STATE / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        print("a run was cut off here: removing its lock and continuing")
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)


def config_files(profile):
    """List the files of a profile's configuration: config.yaml and what its profile.yaml lays over it."""
    path = Path(profile) / "profile.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    named = content.get("configfile", [])
    return [Path("config.yaml"), *map(Path, [named] if isinstance(named, str) else named)]


def main(arguments=None):
    """Launch Snakemake and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", required=True, help="folder of the Snakemake profile")
    options, more = parser.parse_known_args(arguments)
    os.chdir(ROOT)
    try:
        config = load_config(*config_files(options.profile))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    snakemake = [sys.executable, "-m", "snakemake", "--profile", options.profile, *more]
    try:
        clear(snakemake)
    except Refused as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    remove_temporaries(Path("results") / config.run)
    STATE.mkdir(exist_ok=True)
    HOST_NOTE.write_text(platform.node(), encoding="utf-8")
    # In the checkout, where jobs on other machines can write to it.
    with tempfile.NamedTemporaryFile("r", prefix="errors-", suffix=".txt", dir=STATE) as errors:
        process = subprocess.Popen(
            snakemake, env={**os.environ, "TOKENBOUNDS_ERRORS": str(ROOT / errors.name)}
        )
        # Ctrl-C reaches Snakemake too, which then ends its jobs and unlocks: wait for it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGINT, before)
            HOST_NOTE.unlink(missing_ok=True)
        lines = list(dict.fromkeys(errors.read().splitlines()))
    if status:
        print(
            "\n".join(["", *lines]) if lines else f"error: snakemake ended with status {status}",
            file=sys.stderr,
        )
    elif not any(option in more for option in ("-n", "--dry-run", "--dryrun")):
        show(config)
    return status


def show(config):
    """Print the tables and the paths of all results."""
    results = Path("results") / config.run
    tables = [results / "tables" / f"{name}.md" for name in config.every_table]
    for path in filter(Path.exists, tables):  # a run of some targets makes only some tables
        print(f"\n{path.read_text(encoding='utf-8')}")
    print("Results:")
    for name in config.every_table:
        print(f"  {name:14} {results}/tables/{name}.md  .csv  .tex")
    for name in config.figures:
        print(f"  {name:14} {results}/figures/{name}.png  .pdf  .csv")
    print(f"  certificates   {results}/bounds/*.json   (check one with: .venv/bin/tokenbounds verify FILE)")


if __name__ == "__main__":
    sys.exit(main())
