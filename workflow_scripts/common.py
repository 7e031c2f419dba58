"""What every script shares: the rule's log, one-line errors, and dying with the Snakemake process that started it."""

import contextlib
import logging
import os
import sys
import threading
import time
from pathlib import Path

import psutil

from tokenbounds.errors import InputError
from tokenbounds.files import read_json


@contextlib.contextmanager
def job(snakemake):
    """Run a script's body: log to the rule's log file, print an `InputError` as one line and exit with status 1.

    Anything else keeps its traceback, which goes to the log as well. Lines of errors are also appended to the file that the environment
    variable TOKENBOUNDS_ERRORS names, so that the launcher can repeat them after Snakemake's own output.
    """
    die_with_snakemake()
    log = str(snakemake.log[0])
    logging.basicConfig(filename=log, filemode="w", level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    logging.captureWarnings(True)
    try:
        yield
    except InputError as error:
        line = f"error in rule {snakemake.rule}: {error}"
        logging.error(line)
        if os.environ.get("TOKENBOUNDS_ERRORS"):
            with open(os.environ["TOKENBOUNDS_ERRORS"], "a", encoding="utf-8") as handle:
                handle.write(line + "\n")
        print(line, file=sys.stderr)
        sys.exit(1)
    except Exception:
        logging.exception("unexpected error in rule %s", snakemake.rule)
        raise


def published_folder(files, model):
    """Folder of a published model: `files` is the manifest of its download, or the config.json of a local folder."""
    return read_json(files)["folder"] if model.get("hub") else files.removesuffix("/config.json")


def die_with_snakemake(poll_seconds=1.0):
    """End this process when the Snakemake process above it is gone: an orphan could write an output that a new run is also making."""
    snakemake = next((parent for parent in psutil.Process().parents() if is_snakemake(parent)), None)
    if snakemake is None:
        return

    def watch():
        while snakemake.is_running() and snakemake.status() != psutil.STATUS_ZOMBIE:
            time.sleep(poll_seconds)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(1)

    def guarded():
        with contextlib.suppress(psutil.NoSuchProcess):
            watch()
        os._exit(1)

    threading.Thread(target=guarded, daemon=True, name="die-with-snakemake").start()


def is_snakemake(process):
    """Whether a process is a Snakemake run (its executable script or module is snakemake)."""
    try:
        return any(Path(part).name == "snakemake" for part in process.cmdline()[:4])
    except psutil.Error:
        return False
