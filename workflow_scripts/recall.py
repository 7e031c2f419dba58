"""Measure how many integers of its training sequences a model recalls at each number of quantization levels."""

from pathlib import Path

import torch
from common import job

from tokenbounds.config import parse_config
from tokenbounds.recall import write_recall


def main(weights, index, tokenizer, recall, *, levels, method, scoring):
    """Write the csv and its sidecar."""
    torch.set_num_threads(scoring.threads)
    folder = Path(weights).parent
    facts = {"batch_tokens": scoring.batch_tokens, "device": scoring.device, "name": folder.name}
    write_recall(folder, Path(index).parent, tokenizer, recall, levels=levels, method=method, **facts)


if __name__ == "__main__":
    with job(snakemake):
        main(
            *(snakemake.input[key] for key in ("weights", "index", "tokenizer")),
            snakemake.output.recall,
            **snakemake.params,
            scoring=parse_config(snakemake.config).scoring,
        )
