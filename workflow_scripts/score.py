"""Score one part of a message's draws with the model decoded from it."""

from pathlib import Path

import torch
from common import script

from tokenbounds.scoring.acceptance import check_passed
from tokenbounds.scoring.parts import score_part


@script
def main(message, index, records, sidecar, model, codec, part, parts, scheme, seed, sanity_check, config):
    """Write the records of this part's draws; the sidecar says how far they may be off."""
    torch.set_num_threads(config.scoring.threads)
    if sanity_check:
        check_passed(sanity_check, config.accept_bad_models, f"{model}.{codec}")
    n, beacon = scheme.pop("n"), scheme.pop("beacon")
    options = {"name": f"{model}.{codec}", "part": int(part), "parts": parts, "seed": seed}
    options |= {"context": scheme, "n": n, "beacon": beacon, "device": config.scoring.device}
    score_part(message, Path(index).parent, records, sidecar, **options)
