"""Draw the positions or windows that every model on a corpus is scored on."""

from pathlib import Path

from common import script

from tokenbounds.config.schema import Sampling
from tokenbounds.corpus.sampling import write_positions
from tokenbounds.corpus.store import CorpusIndex


@script
def main(draws, index, scheme, seed, corpus):
    """Write the draws and their sidecar."""
    # The context length does not decide the draws, so it is no param; the window meets the section's check.
    section = Sampling.model_validate({**scheme, "context_length": max(1, scheme.get("window", 1))})
    write_positions(draws, CorpusIndex(Path(index).parent), section, seed, corpus)
