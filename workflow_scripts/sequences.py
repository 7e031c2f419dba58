"""Write the documents of a corpus of integer sequences."""

from common import script

from tokenbounds.corpus.synthetic.integer_sequences import write_sequences


@script
def main(documents, options, seed, corpus):
    """Write sequences.jsonl."""
    write_sequences(documents, options, seed, corpus)
