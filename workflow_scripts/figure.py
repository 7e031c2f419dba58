"""Draw one figure from certificates or trained models."""

from pathlib import Path

from common import job

from tokenbounds.certificate import read
from tokenbounds.figures import write_parameters_figure, write_size_figure
from tokenbounds.files import read_json
from tokenbounds.tables import best_of


def main(certificates, models, output, kind, labels, counts):
    """Read what is drawn, in the order of the labels, and write csv, pdf and png."""
    paths = {key: output[key] for key in ("csv", "pdf", "png")}
    if kind == "size":
        write_size_figure(best_of([read(path) for path in certificates], counts), labels, **paths)
    else:
        write_parameters_figure({Path(path).parent.name: read_json(path) for path in models}, labels, **paths)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.certificates, snakemake.input.models, snakemake.output, **snakemake.params)
