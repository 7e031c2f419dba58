"""Write the table of downstream performance and the resampled objective."""

from common import job

from tokenbounds.files import read_json
from tokenbounds.meaning_figure import write_meaning_table


def main(scores, output, labels, downstream, caption, **note):
    """Read the scores and write csv, markdown and LaTeX."""
    paths = {key: output[key] for key in ("csv", "md", "tex")}
    write_meaning_table(read_json(scores)["models"], labels, downstream, caption, note, **paths)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.scores, snakemake.output, **snakemake.params)
