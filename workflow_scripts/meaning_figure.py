"""Draw the entropy of next tokens, and the resampled objective against downstream performance."""

from common import job

from tokenbounds.files import read_json
from tokenbounds.meaning_figure import write_meaning_figure


def main(records, scores, output, *, head, longest, labels, downstream, names):
    """Read records and scores, and write csv, pdf and png."""
    paths = {key: output[key] for key in ("csv", "pdf", "png")}
    write_meaning_figure(records, head, longest, read_json(scores)["models"], labels, downstream, names, **paths)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.records, snakemake.input.scores, snakemake.output, **snakemake.params)
