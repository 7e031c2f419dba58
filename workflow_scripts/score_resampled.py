"""Score the evaluated models on resampled tokens, and on drawn tokens of the downstream corpora."""

from pathlib import Path

import torch
from common import script

from tokenbounds.experiments.downstream import write_scores
from tokenbounds.scoring.acceptance import check_passed


@script
def main(input, scores, models, corpora, scheme, contexts, tokens, seed, config):
    """Write the scores of all models to one file."""
    torch.set_num_threads(config.scoring.threads)
    for path in input.sanity_checks:
        check_passed(path, config.accept_bad_models, Path(path).stem)
    folders = [Path(index).parent for index in (*input.downstream_indices, input.index)]
    others = zip(corpora, folders[:-1], input.downstream_tokenizers, strict=True)
    evaluated = list(zip(models, input.messages, input.tokenizers, strict=True))
    continuations = (input.resampled, folders[-1], input.tokenizer, list(others))
    options = {"scheme": scheme, "draws": contexts, "tokens": tokens, "seed": seed}
    write_scores(scores, evaluated, *continuations, **options, device=config.scoring.device)
