"""Score one part of the drawn tokens with the model decoded from its message."""

from pathlib import Path

import torch
from common import script

from tokenbounds.scoring.acceptance import check_passed
from tokenbounds.scoring.parts import score_part


@script
def main(
    message, draws, index, records, sidecar, model, codec, sampling, part, parts, seed, sanity_check, config
):
    """Write the records of this part's draws; the sidecar compares them with another batch shape."""
    torch.set_num_threads(config.scoring.threads)
    if sanity_check:
        check_passed(sanity_check, config.accept_bad_models, f"{model}.{codec}")
    options = {"name": f"{model}.{codec}", "sampling": sampling, "part": int(part), "parts": parts}
    execution = {"batch_tokens": config.scoring.batch_tokens, "device": config.scoring.device}
    score_part(message, draws, Path(index).parent, records, sidecar, seed=seed, **options, **execution)
