"""Generate text with the hypotheses of a table's rows and write it beside their bounds."""

from pathlib import Path

import torch
from common import job

from tokenbounds.certificate import read
from tokenbounds.generation import write_text_table
from tokenbounds.tables import best_of


def main(certificates, output, labels, counts, top_k, caption, samples, seed, threads):
    """Read the certificates, in the order of the rows, generate with the best of each row, and write csv, markdown and LaTeX."""
    torch.set_num_threads(threads)
    run = Path(certificates[0]).parent.parent
    shown = best_of([read(path) for path in certificates], counts)
    write_text_table(run, shown, labels, top_k, caption, samples, seed, csv=output.csv, md=output.md, tex=output.tex)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.certificates, snakemake.output, **snakemake.params, threads=snakemake.threads)
