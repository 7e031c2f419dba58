"""Make the documents of a corpus of integer sequences."""

from common import job

from tokenbounds.sequences import write_sequences


def main(documents, options, seed, corpus_name):
    """Write sequences.jsonl."""
    write_sequences(documents, options, seed, corpus_name)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.documents, corpus_name=snakemake.wildcards.corpus, **snakemake.params)
