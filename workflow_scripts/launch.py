"""Run Snakemake so that one command is enough, whatever happened before: `make quickstart` and `make run` call this.

A run that was killed leaves a lock behind; it is removed when no Snakemake process works in this checkout any more. Incomplete files are
made again (the profiles say rerun-incomplete). At the end the tables are printed, or the errors repeated, one line each.

Only processes of this machine are seen, and a lock does not say on which machine it was made: on a file system that several machines share,
start every run of a checkout on the same one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from common import is_snakemake

from tokenbounds.config import load_config
from tokenbounds.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def running():
    """Process numbers of the Snakemake runs whose working directory is this checkout."""
    found = []
    for process in psutil.process_iter():
        try:
            if is_snakemake(process) and Path(process.cwd()) == ROOT:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def config_files(profile):
    """The configuration that a profile runs: config.yaml and the profile's overlay, if it has one."""
    overlay = Path(profile) / "config.yaml"
    return [path for path in (Path("config.yaml"), overlay) if path.exists()]


def main(arguments=None):
    """Launch; returns Snakemake's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True, help="folder of the Snakemake profile")
    options, more = parser.parse_known_args(arguments)
    os.chdir(ROOT)
    try:
        config = load_config(*config_files(options.profile))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if others := running():
        print(f"error: Snakemake is already running in {ROOT} (process {others[0]}); wait for it or stop it", file=sys.stderr)
        return 1
    snakemake = [sys.executable, "-m", "snakemake", "--profile", options.profile, *more]
    locks = Path(".snakemake/locks")
    if locks.is_dir() and any(locks.iterdir()):
        print("a run was cut off here: removing its lock and continuing")
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as errors:
        status = subprocess.run(snakemake, env={**os.environ, "TOKENBOUNDS_ERRORS": errors.name}).returncode
        lines = list(dict.fromkeys(errors.read().splitlines()))
    if status:
        print("\n".join(["", *lines]) if lines else f"error: snakemake ended with status {status}", file=sys.stderr)
    elif not any(option in more for option in ("-n", "--dry-run", "--dryrun")):
        show(config)
    return status


def show(config):
    """Print the tables and where everything is."""
    results = Path("results") / config.run
    tables = [results / "tables" / f"{name}.md" for name in config.tables]
    for path in filter(Path.exists, tables):  # a run of some targets only makes some
        print(f"\n{path.read_text(encoding='utf-8')}")
    print("Results:")
    for name in config.tables:
        print(f"  {name:14} {results}/tables/{name}.md  .csv  .tex")
    for name in config.figures:
        print(f"  {name:14} {results}/figures/{name}.png  .pdf  .csv")
    print(f"  certificates   {results}/bounds/*.json   (check one with: .venv/bin/tokenbounds verify FILE)")


if __name__ == "__main__":
    sys.exit(main())
