"""Draw one figure from its certificates."""

from common import job

from tokenbounds.certificate import read
from tokenbounds.figures import write_size_figure


def main(certificates, output, series):
    """Read the certificates, in the order of the series, and write csv, pdf and png."""
    write_size_figure([read(path) for path in certificates], series, csv=output.csv, pdf=output.pdf, png=output.png)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.certificates, snakemake.output, **snakemake.params)
