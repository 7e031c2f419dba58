"""Style of all figures: colours, axes, and files that are the same each time."""

import itertools
import math

import matplotlib

matplotlib.use("Agg")  # before pyplot: jobs have no display

import matplotlib.pyplot as plt
import numpy as np

from tokenbounds.io.files import atomic_path

# Okabe-Ito: told apart by readers with any colour vision, and by marker in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 150,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}


def log_axis(axes, most=6):
    """Make the x axis logarithmic, with at most `most` ticks as plain numbers: 10k, 2M."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps, every in (((1, 1.5, 2, 3, 4, 5, 7), 1), ((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [step * 10.0**decade for decade in decades if decade % every == 0 for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:  # less than an octave: three round numbers
        ticks = sorted({float(f"{value:.2g}") for value in np.linspace(low, high, 5)[1:-1]})
    axes.xaxis.set_major_locator(matplotlib.ticker.FixedLocator(ticks))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: _plain(value)))
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _plain(value):
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def looks():
    """Iterate over the colour and marker of each line: 42 differ."""
    return zip(itertools.cycle(COLOURS), itertools.cycle((*MARKERS, "X")), strict=True)


def each_series(data):
    """Iterate over the series of a figure, in order: label, lines of `data`, and its colour and marker."""
    for (label, lines), (colour, marker) in zip(data.groupby("series", sort=False), looks(), strict=False):
        yield label, lines, {"color": colour, "marker": marker}


def save(figure, pdf, png):
    """Save a figure as pdf and png, atomically and without the time of day, and close it."""
    for path, form, metadata in ((pdf, "pdf", {"CreationDate": None}), (png, "png", {"Software": None})):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=form, metadata=metadata)
    plt.close(figure)
