"""Draw new next tokens from the generator, in drawn contexts of the corpus."""

from pathlib import Path

import torch
from common import script

from tokenbounds.experiments.resampling import resample
from tokenbounds.scoring.acceptance import check_passed


@script
def main(input, resampled, sidecar, model, codec, sampling, contexts, tokens, seed, config):
    """Write the new tokens and their sidecar."""
    torch.set_num_threads(config.scoring.threads)
    name, store = f"{model}.{codec}", Path(input.index).parent
    if input.sanity_check:
        check_passed(input.sanity_check, config.accept_bad_models, name)
    options = {"name": name, "sampling": sampling, "draws": contexts, "tokens": tokens, "seed": seed}
    execution = {"batch_tokens": config.scoring.batch_tokens, "device": config.scoring.device}
    resample(input.message, input.draws, store, resampled, sidecar, **options, **execution)
