"""The paper's Figure 1, right: validation loss against trainable parameters."""

from pathlib import Path

import pandas as pd

from tokenbounds.io.files import read_json
from tokenbounds.reports.figures.style import STYLE, each_series, log_axis, plt, save
from tokenbounds.reports.formats import write_csv


def write_parameters_figure(models, labels, *, csv, pdf, png):
    """Draw validation loss against trainable parameters, a line per structure: Figure 1, right.

    Parameters
    ----------
    models : dict of str to dict
        ``config.json`` of each trained model, by name.
    labels : list of (str, str)
        Legend label and model, in the order of the legend.
    csv, pdf, png : path
        Outputs.
    """
    lines = []
    for label, name in labels:
        trained = models[name]["provenance"]
        final = {key: trained["final"][key] for key in ("val_loss_nats", "train_loss_nats", "tokens")}
        lines.append({"series": label, "model": name, "trainable_parameters": trained["parameters"], **final})
    data = pd.DataFrame(lines)
    write_csv(csv, data)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.0, 2.9), layout="constrained")
        for label, lines, look in each_series(data):
            lines = lines.sort_values("trainable_parameters")
            x, y = lines["trainable_parameters"], lines["val_loss_nats"]
            axes.plot(x, y, markersize=5, label=label, **look)
        axes.set(xlabel="trainable parameters", ylabel="validation loss (nats per token)")
        log_axis(axes)
        axes.legend(fontsize=8)
        save(figure, pdf, png)


def draw(inputs, spec, outputs):
    """Draw the figure for the workflow (see `tokenbounds.config.schema.figures.ParametersFigure`)."""
    models = {Path(path).parent.name: read_json(path) for path in inputs["models"]}
    write_parameters_figure(models, spec["labels"], **outputs)
