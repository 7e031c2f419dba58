"""Score a published model on a few documents: whether it is the model that it should be, before hours are spent on a bound."""

from pathlib import Path

import torch
from common import job

from tokenbounds.config import parse_config
from tokenbounds.files import provenance, write_json
from tokenbounds.gate import loss_on_documents


def main(message, index, gate, *, name, seed, scoring):
    """Write the loss; rule `score` refuses a bad model unless the configuration accepts it."""
    torch.set_num_threads(scoring.threads)
    facts = loss_on_documents(message, Path(index).parent, name=name, seed=seed, batch_tokens=scoring.batch_tokens, device=scoring.device)
    write_json(gate, provenance({"seed": seed}, [message, index], **facts))


if __name__ == "__main__":
    with job(snakemake):
        w = snakemake.wildcards
        main(
            snakemake.input.message,
            snakemake.input.index,
            snakemake.output.gate,
            name=f"{w.model}.{w.codec}",
            **snakemake.params,
            scoring=parse_config(snakemake.config).scoring,
        )
