"""Draw what quantized models recall of the sequences that they were trained on."""

from common import job

from tokenbounds.recall_figure import write_recall_figure


def main(recalls, output, labels):
    """Read the recall of each model, in the order of the labels, and write csv, pdf and png."""
    write_recall_figure(recalls, labels, **{key: output[key] for key in ("csv", "pdf", "png")})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.recalls, snakemake.output, **snakemake.params)
