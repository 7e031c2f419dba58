"""Tokenize one shard's documents into the train and val splits."""

from pathlib import Path

from common import script

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.shards import tokenize_shard


@script
def main(tokens, manifest, roles, tokenizer, section, shard, threads):
    """Write {shard}.bin, .ends.bin and .json of both splits."""
    folder = Path(tokens).parent.parent
    tokenize_shard(Corpus.model_validate(section), manifest, roles, tokenizer, int(shard), folder, threads)
