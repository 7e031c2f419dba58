"""Check one split's shards and index them."""

from pathlib import Path

from common import job

from tokenbounds.corpus import build_index


def main(index, sidecars):
    """Write index.json and ends.bin."""
    build_index(sidecars, Path(index).parent)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.index, snakemake.input.sidecars)
