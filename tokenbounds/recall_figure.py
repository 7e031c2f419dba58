"""The paper's Figure 4: what quantized models recall of sequences with and without structure."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from tokenbounds.figures import STYLE, looks, save
from tokenbounds.files import atomic_path


def summary(recalls, labels):
    """Recall of all models of each series, and its mean and spread at each number of levels.

    Parameters
    ----------
    recalls : list of path
        Files of `tokenbounds.recall.write_recall`, named ``{figure}.{model}.csv``.
    labels : list of str
        What the legend calls the series of each.

    Returns
    -------
    DataFrame
        A line per model and number of levels; ``mean_accuracy`` and ``accuracy_deviation`` (sample standard deviation; empty for one model)
        are those of the series' models at that number.
    """
    names = [Path(path).stem.partition(".")[2] for path in recalls]
    read = [pd.read_csv(path).assign(series=label, model=name) for path, label, name in zip(recalls, labels, names, strict=True)]
    data = pd.concat(read, ignore_index=True)
    groups = data.groupby(["series", "levels"], sort=False)["accuracy"]
    data = data.assign(mean_accuracy=groups.transform("mean"), accuracy_deviation=groups.transform("std"))
    return data[["series", "model", *(name for name in data if name not in ("series", "model"))]]


def write_recall_figure(recalls, labels, *, csv, pdf, png):
    """Accuracy of integer prediction on the training sequences against quantization levels: the mean over replicates, with bars of one
    standard deviation, and dotted the most that is attainable. Parameters as for `summary`, and the outputs.
    """
    data = summary(recalls, labels)
    with atomic_path(csv) as temporary:
        data.to_csv(temporary, index=False)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.0, 2.9), layout="constrained")
        for (label, lines), (colour, marker) in zip(data.groupby("series", sort=False), looks(), strict=False):
            lines = lines.drop_duplicates("levels").sort_values("levels")
            look = {"color": colour, "marker": marker, "markersize": 4, "capsize": 2, "linewidth": 1.2, "label": label}
            axes.axhline(lines["attainable_accuracy"].iloc[0], color=colour, linestyle=":", linewidth=1)
            axes.errorbar(lines["levels"], lines["mean_accuracy"], yerr=lines["accuracy_deviation"].fillna(0), **look)
        axes.set(xlabel="quantization levels", ylabel="accuracy on training integers", ylim=(-0.03, 1.03))
        axes.legend(fontsize=8)
        save(figure, pdf, png)
