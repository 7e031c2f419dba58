"""Draw what smoothing heads do to the bound."""

from pathlib import Path

from common import job

from tokenbounds.certificate import read
from tokenbounds.files import read_json
from tokenbounds.smoothing_figure import write_smoothing_figure


def main(heads, bases, models, output, labels, methods):
    """Read certificates with and without head, in the order of the labels, and write csv, pdf and png."""
    run = Path(heads[0]).parent.parent
    paths = {key: output[key] for key in ("csv", "alpha", "pdf", "png")}
    parameters = [read_json(path)["provenance"]["parameters"] for path in models]
    write_smoothing_figure(run, [read(path) for path in heads], [read(path) for path in bases], labels, methods, parameters, **paths)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.heads, snakemake.input.bases, snakemake.input.models, snakemake.output, **snakemake.params)
