"""Draw new next tokens from the generator, in drawn contexts of the corpus."""

from pathlib import Path

import torch
from common import script

from tokenbounds.experiments.resampling import resample


@script
def main(
    message, draws, index, resampled, sidecar, model, codec, sampling, contexts, tokens, seed, *, scoring
):
    """Write the new tokens and their sidecar."""
    torch.set_num_threads(scoring.threads)
    options = {"name": f"{model}.{codec}", "sampling": sampling, "draws": contexts, "tokens": tokens}
    execution = {"batch_tokens": scoring.batch_tokens, "device": scoring.device}
    resample(message, draws, Path(index).parent, resampled, sidecar, seed=seed, **options, **execution)
