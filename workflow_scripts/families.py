"""Write the documents of a corpus of antibodies: clonal families."""

from common import script

from tokenbounds.corpus.synthetic.antibodies import write_families


@script
def main(documents, sidecar, options, seed, corpus):
    """Write families.jsonl and its sidecar."""
    write_families(documents, sidecar, options, seed, corpus)
