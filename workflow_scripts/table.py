"""Write one table from its certificates."""

from pathlib import Path

from common import job

from tokenbounds.certificate import read
from tokenbounds.files import read_json
from tokenbounds.tables import best_of, write_table


def main(certificates, models, output, labels, counts, top_k, caption):
    """Read the certificates, in the order of the rows, and write csv, markdown and LaTeX; `models` for a column of validation losses."""
    shown = best_of([read(path) for path in certificates], counts)
    losses = {Path(path).parent.name: read_json(path)["provenance"]["final"]["val_loss_nats"] for path in models} or None
    write_table(shown, labels, top_k, caption, csv=output.csv, md=output.md, tex=output.tex, val_losses_nats=losses)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.certificates, snakemake.input.models, snakemake.output, **snakemake.params)
