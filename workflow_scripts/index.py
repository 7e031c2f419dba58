"""Check one split's shards and index them."""

from pathlib import Path

from common import script

from tokenbounds.corpus.indexing import build_index


@script
def main(index, sidecars, context_length):
    """Write index.json and ends.bin."""
    build_index(sidecars, Path(index).parent, context_length)
