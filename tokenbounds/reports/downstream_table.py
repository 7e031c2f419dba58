"""The paper's Table 7: downstream performance beside the resampled objective."""

from tokenbounds.io.files import read_json
from tokenbounds.reports.figures.downstream import write_meaning_table


def draw(inputs, spec, outputs):
    """Make the table for the workflow (see `tokenbounds.config.schema.figures.DownstreamTable`)."""
    evaluations = read_json(inputs["scores"][0])["models"]
    options = {key: spec[key] for key in ("labels", "downstream", "caption", "note")}
    write_meaning_table(evaluations, **options, **outputs)
