"""The paper's Figure 1, right: validation loss against trainable parameters."""

from pathlib import Path

from tokenbounds.io.files import read_json
from tokenbounds.reports.figures.size import write_parameters_figure


def draw(inputs, spec, outputs):
    """Draw the figure for the workflow (see `tokenbounds.config.schema.figures.ParametersFigure`)."""
    models = {Path(path).parent.name: read_json(path) for path in inputs["models"]}
    write_parameters_figure(models, spec["labels"], **outputs)
