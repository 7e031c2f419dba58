"""Draw next tokens anew in drawn contexts of the corpus, from the generator."""

from pathlib import Path

import torch
from common import job

from tokenbounds.config import parse_config
from tokenbounds.resampling import resample


def main(message, draws_path, index, resampled, sidecar, *, scoring, **options):
    """Write what was drawn, and its sidecar."""
    torch.set_num_threads(scoring.threads)
    facts = {"batch_tokens": scoring.batch_tokens, "device": scoring.device}
    resample(message, draws_path, Path(index).parent, resampled, sidecar, **options, **facts)


if __name__ == "__main__":
    with job(snakemake):
        w = snakemake.wildcards
        main(
            *(snakemake.input[key] for key in ("message", "draws", "index")),
            *(snakemake.output[key] for key in ("resampled", "sidecar")),
            name=f"{w.model}.{w.codec}",
            sampling=w.sampling,
            **snakemake.params,
            scoring=parse_config(snakemake.config).scoring,
        )
