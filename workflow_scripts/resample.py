"""Draw new next tokens from the generator, in drawn contexts of the corpus."""

from pathlib import Path

import torch
from common import script

from tokenbounds.experiments.resampling import resample
from tokenbounds.scoring.acceptance import check_passed


@script
def main(input, resampled, sidecar, model, codec, corpus, scheme, contexts, tokens, seed, config):
    """Write the new tokens and their sidecar."""
    torch.set_num_threads(config.scoring.threads)
    name, store = f"{model}.{codec}", Path(input.index).parent
    if input.sanity_check:
        check_passed(input.sanity_check, config.accept_bad_models, name)
    options = {"name": name, "corpus": corpus, "scheme": scheme, "draws": contexts, "tokens": tokens}
    options |= {"seed": seed, "device": config.scoring.device}
    resample(input.message, store, resampled, sidecar, **options)
