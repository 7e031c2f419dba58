"""Make the documents of a corpus of antibodies: clonal families."""

from common import job

from tokenbounds.antibodies import write_families


def main(output, options, seed, corpus_name):
    """Write families.jsonl and its sidecar."""
    write_families(output.documents, output.sidecar, options, seed, corpus_name)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output, corpus_name=snakemake.wildcards.corpus, **snakemake.params)
