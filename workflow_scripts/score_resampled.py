"""Score the evaluated models on resampled tokens, and on drawn tokens of the downstream corpora."""

from pathlib import Path

import torch
from common import script

from tokenbounds.experiments.downstream import write_scores


@script
def main(input, scores, models, corpora, sampling, contexts, tokens, *, scoring):
    """Write the scores of all models to one file."""
    torch.set_num_threads(scoring.threads)
    folders = [Path(index).parent for index in input.downstream_indices]
    downstream = list(zip(corpora, input.downstream_draws, folders, input.downstream_tokenizers, strict=True))
    evaluated = list(zip(models, input.messages, input.tokenizers, strict=True))
    options = {"sampling": sampling, "draws": contexts, "tokens": tokens}
    execution = {"batch_tokens": scoring.batch_tokens, "device": scoring.device}
    store = Path(input.index).parent
    write_scores(
        scores, evaluated, input.resampled, store, input.tokenizer, downstream, **options, **execution
    )
