"""Draw the positions or windows that every model on a corpus is scored on."""

from pathlib import Path

from common import job

from tokenbounds.corpus import CorpusIndex, write_positions
from tokenbounds.sections import Sampling


def main(draws, index, sampling, seed, name):
    """Write the draws and their sidecar."""
    # The context length does not decide the draws, so it is not among the parameters; the widest satisfies the section's own check.
    section = Sampling.model_validate({**sampling, "context_length": max(1, sampling.get("window", 1))})
    write_positions(draws, CorpusIndex(Path(index).parent), section, seed, name)


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.output.draws,
            snakemake.input.index,
            snakemake.params.sampling,
            snakemake.params.seed,
            snakemake.wildcards.corpus,
        )
