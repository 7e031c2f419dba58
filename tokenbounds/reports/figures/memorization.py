"""The paper's Figure 4: sequences with and without structure that quantized models know by heart."""

from pathlib import Path

import pandas as pd

from tokenbounds.reports.figures.style import STYLE, each_series, plt, save
from tokenbounds.reports.formats import write_csv


def summary(accuracies, labels):
    """Collect the accuracy of all models of each series, with mean and spread at each number of levels.

    Parameters
    ----------
    accuracies : list of path
        Files of accuracies that rule `memorization` writes, named ``{figure}.{model}.csv``.
    labels : list of str
        Name in the legend of the series of each file.

    Returns
    -------
    DataFrame
        A line per model and number of levels; ``mean_accuracy`` and ``accuracy_deviation`` (sample standard
        deviation; empty for one model) are taken over the series' models at that number.
    """
    read = []
    for path, label in zip(accuracies, labels, strict=True):
        model = Path(path).stem.partition(".")[2]
        read.append(pd.read_csv(path).assign(series=label, model=model))
    data = pd.concat(read, ignore_index=True)
    groups = data.groupby(["series", "levels"], sort=False)["accuracy"]
    data = data.assign(mean_accuracy=groups.transform("mean"), accuracy_deviation=groups.transform("std"))
    return data[["series", "model", *(name for name in data if name not in ("series", "model"))]]


def write_memorization_figure(accuracies, labels, *, csv, pdf, png):
    """Draw the accuracy of integer prediction on the training sequences against quantization levels.

    Shown are the mean over replicates, with bars of one standard deviation, and dotted the largest attainable
    accuracy. Parameters as for `summary`, and the outputs.
    """
    data = summary(accuracies, labels)
    write_csv(csv, data)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.0, 2.9), layout="constrained")
        for label, lines, look in each_series(data):
            lines = lines.drop_duplicates("levels").sort_values("levels")
            bars = lines["accuracy_deviation"].fillna(0)
            look |= {"markersize": 4, "capsize": 2, "linewidth": 1.2}
            axes.axhline(
                lines["attainable_accuracy"].iloc[0], color=look["color"], linestyle=":", linewidth=1
            )
            axes.errorbar(lines["levels"], lines["mean_accuracy"], yerr=bars, label=label, **look)
        axes.set(xlabel="quantization levels", ylabel="accuracy on training integers", ylim=(-0.03, 1.03))
        axes.legend(fontsize=8)
        save(figure, pdf, png)


def draw(inputs, spec, outputs):
    """Draw the figure for the workflow (see `tokenbounds.config.schema.figures.MemorizationFigure`)."""
    write_memorization_figure(inputs["accuracies"], spec["labels"], **outputs)
