"""The learning curve of a training, as a table and a figure."""

import csv
from pathlib import Path

from tokenbounds.io.files import atomic_path

CURVE_COLUMNS = ["step", "tokens", "train_loss_nats", "val_loss_nats", "learning_rate", "seconds"]


def write_curve(folder, rows):
    """Write ``curve.csv`` and ``curve.png``.

    Parameters
    ----------
    folder : path
    rows : list of list
        As `CURVE_COLUMNS`, losses in nats per token; the validation loss may be None.
    """
    with (
        atomic_path(Path(folder) / "curve.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as handle,
    ):
        csv.writer(handle, lineterminator="\n").writerows([CURVE_COLUMNS, *rows])
    with atomic_path(Path(folder) / "curve.png") as temporary:
        _figure(rows).savefig(temporary, format="png", dpi=150)


def _figure(rows):
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(rows) < 20 else None
    for label, column in (("training", "train_loss_nats"), ("validation", "val_loss_nats")):
        column = CURVE_COLUMNS.index(column)
        points = [(row[0], row[column]) for row in rows if row[column] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3, linewidth=1.2)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
