"""Tokenize one shard's documents into the train and val splits."""

from pathlib import Path

from common import job

from tokenbounds.sections import Corpus
from tokenbounds.tokenize import tokenize_shard


def main(tokens, manifest, roles, tokenizer, corpus, shard, processes):
    """Write {shard}.bin, .ends.bin and .json of both splits."""
    tokenize_shard(Corpus.model_validate(corpus), manifest, roles, tokenizer, shard, Path(tokens).parent.parent, processes)


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.output.tokens,
            snakemake.input.manifest,
            snakemake.input.roles,
            snakemake.input.tokenizer,
            snakemake.params.corpus,
            int(snakemake.wildcards.shard),
            snakemake.threads,
        )
