"""Score one part of the drawn tokens with the model decoded from its message."""

from pathlib import Path

import torch
from common import job

from tokenbounds.config import parse_config
from tokenbounds.gate import check_gate
from tokenbounds.records import score_part


def main(message, draws, index, records, sidecar, *, name, sampling, part, parts, seed, scoring, gate=None, accept_bad=False):
    """Write the records of draws of this part, and how far a second scoring in another batch shape differs."""
    torch.set_num_threads(scoring.threads)
    if gate:
        check_gate(gate, accept_bad, name)
    score_part(
        message,
        draws,
        Path(index).parent,
        records,
        sidecar,
        name=name,
        sampling=sampling,
        part=part,
        parts=parts,
        seed=seed,
        batch_tokens=scoring.batch_tokens,
        device=scoring.device,
    )


if __name__ == "__main__":
    with job(snakemake):
        w, config = snakemake.wildcards, parse_config(snakemake.config)
        main(
            *(snakemake.input[key] for key in ("message", "draws", "index")),
            *(snakemake.output[key] for key in ("records", "sidecar")),
            name=f"{w.model}.{w.codec}",
            sampling=w.sampling,
            part=int(w.part),
            **snakemake.params,
            # How a job is executed changes rounding only, so it is not among the parameters that make records stale.
            scoring=config.scoring,
            gate=snakemake.input.gate,
            accept_bad=config.accept_bad_models,
        )
