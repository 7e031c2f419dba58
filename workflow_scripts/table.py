"""Write one table from its certificates."""

from common import job

from tokenbounds.certificate import read
from tokenbounds.tables import best_of, write_table


def main(certificates, output, labels, counts, top_k, caption):
    """Read the certificates, in the order of the rows, and write csv, markdown and LaTeX."""
    shown = best_of([read(path) for path in certificates], counts)
    write_table(shown, labels, top_k, caption, csv=output.csv, md=output.md, tex=output.tex)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.certificates, snakemake.output, **snakemake.params)
