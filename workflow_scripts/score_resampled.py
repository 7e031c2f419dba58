"""Score the evaluated models of a figure on resampled tokens and on downstream corpora, one model after the other."""

from pathlib import Path

import torch
from common import job

from tokenbounds.config import parse_config
from tokenbounds.resampling import write_scores


def main(inputs, scores, *, scoring, **options):
    """Write the scores of all models."""
    torch.set_num_threads(scoring.threads)
    downstream = zip(
        options.pop("corpora"),
        inputs.downstream_draws,
        [Path(index).parent for index in inputs.downstream_indices],
        inputs.downstream_tokenizers,
        strict=True,
    )
    facts = {"batch_tokens": scoring.batch_tokens, "device": scoring.device}
    models = list(zip(options.pop("models"), inputs.messages, inputs.tokenizers, strict=True))
    write_scores(scores, models, inputs.resampled, Path(inputs.index).parent, inputs.tokenizer, list(downstream), **options, **facts)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input, snakemake.output.scores, **snakemake.params, scoring=parse_config(snakemake.config).scoring)
