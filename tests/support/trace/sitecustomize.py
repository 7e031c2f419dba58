"""Write down at the end of a rule's job which modules it has loaded.

Python imports this file at its start if the folder is on PYTHONPATH."""

import atexit
import json
import os
import sys


def _write():
    job = getattr(sys.modules.get("__main__"), "snakemake", None)
    if job is None:
        return
    facts = {"rule": job.rule, "wildcards": dict(job.wildcards.items()), "modules": sorted(sys.modules)}
    with open(os.path.join(os.environ["TOKENBOUNDS_TRACE"], f"{os.getpid()}.json"), "w") as handle:
        json.dump(facts, handle)


if os.environ.get("TOKENBOUNDS_TRACE"):
    atexit.register(_write)
