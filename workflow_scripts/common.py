"""Parts that all scripts share: arguments from the rule, its log, one-line errors, and an end with Snakemake.

A script is a function under the decorator `script`. Each parameter is named like an output, input, param or
wildcard of the rule::

    rule score:                                        @script
        input: index="...", message="..."              def main(message, index, records, part, *, scoring):
        output: records="{run}/.../{part}.parquet"         ...
"""

import contextlib
import inspect
import logging
import os
import sys
import threading
import time
from pathlib import Path

import psutil

from tokenbounds.config.load import parse_config
from tokenbounds.errors import InputError


def script(main):
    """Run a function as the job of a rule if Snakemake runs its file; return it unchanged otherwise."""
    snakemake = main.__globals__.get("snakemake")
    if snakemake is not None and main.__module__ == "__main__":  # not in processes that the job itself starts
        with job(snakemake):
            main(**arguments(main, snakemake))
    return main


def arguments(main, snakemake):
    """Collect the arguments of a script's function by the names of its parameters.

    ============================================  ====================================================
    name                                          value
    ============================================  ====================================================
    an output, input, param or wildcard           that of the rule; exactly one must have the name
    `input`, `output`, `threads`, `resources`     the rule's own, if nothing else has the name
    `config`                                      the whole configuration, checked
    `scoring`                                     its section `scoring`
    any other, with a default                     left out
    ============================================  ====================================================

    Parts, device and threads of scoring say how a job is executed, which changes rounding at most. Therefore
    they are no params, whose change would make outputs stale; the arithmetic is part of the message.

    Raises
    ------
    RuntimeError
        No value has the name of a parameter without a default, or several have it: a mistake in the rule.
    """
    of_rule = {
        "input": snakemake.input,
        "output": snakemake.output,
        "threads": snakemake.threads,
        "resources": snakemake.resources,
    }
    parts = (snakemake.output, snakemake.input, snakemake.params, snakemake.wildcards)
    named = [dict(part.items()) for part in parts]
    values = {}
    for name, parameter in inspect.signature(main).parameters.items():
        if name in ("config", "scoring"):
            config = parse_config(snakemake.config)
            values[name] = config if name == "config" else config.scoring
            continue
        candidates = [part[name] for part in named if name in part]
        if name in of_rule and not candidates:
            values[name] = of_rule[name]
        elif len(candidates) == 1:
            values[name] = candidates[0]
        elif candidates or parameter.default is inspect.Parameter.empty:
            raise RuntimeError(
                f"rule {snakemake.rule}: {len(candidates)} values named '{name}'; expected one"
            )
    return values


@contextlib.contextmanager
def job(snakemake):
    """Run a script's body: log to the rule's log file, and end on an `InputError` with one line and status 1.

    Any other exception keeps its traceback, which also goes to the log. Lines of errors are also appended to
    the file that the environment variable TOKENBOUNDS_ERRORS names, so that the launcher can repeat them
    after Snakemake's own output."""
    die_with_snakemake()
    log = str(snakemake.log[0])
    logging.basicConfig(
        filename=log, filemode="w", level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True
    )
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


def die_with_snakemake(poll_seconds=1.0):
    """End this process when the Snakemake process above it is gone.

    An orphan could write an output that a new run is also making."""
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
    """Check whether a process is a Snakemake run (its executable script or module is snakemake)."""
    try:
        return any(Path(part).name == "snakemake" for part in process.cmdline()[:4])
    except psutil.Error:
        return False
