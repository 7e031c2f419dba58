"""Certificates to figures; the numbers behind each go to a csv beside it."""

import itertools
import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tokenbounds.files import atomic_path

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


def size_figure_data(certificates, series):
    """Numbers of the figure: a line per certificate.

    Parameters
    ----------
    certificates : list of dict
    series : list of (str, str)
        Per certificate its legend label and its own label.
    """
    return pd.DataFrame(
        {
            "series": label,
            "label": name,
            "certificate": certificate["name"],
            "message_bytes": certificate["hypothesis"]["message_bytes"],
            "bpd_risk": certificate["metrics"]["bpd"]["empirical_risk"],
            "bpd_azuma": certificate["metrics"]["bpd"]["bounds"]["azuma"]["value"],
            "bpd_betting": certificate["metrics"]["bpd"]["bounds"]["betting"]["value"],
            "bpd_random_guess": certificate["metrics"]["bpd"]["random_guess"],
        }
        for certificate, (label, name) in zip(certificates, series, strict=True)
    )


def write_size_figure(certificates, series, *, csv, pdf, png):
    """Bound (left) and training loss (right) against compressed size: the paper's Figure 1 left and middle.

    The paper's formula is drawn dashed with open markers, the betting bound solid; one legend for both panels.
    """
    data = size_figure_data(certificates, series)
    with atomic_path(csv) as temporary:
        data.to_csv(temporary, index=False)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
        for (label, lines), (colour, marker) in zip(data.groupby("series", sort=False), looks(), strict=False):
            lines = lines.sort_values("message_bytes")
            size = lines["message_bytes"] / 1e6
            style = {"color": colour, "marker": marker, "markersize": 5}
            left.plot(size, lines["bpd_azuma"], linestyle="--", markerfacecolor="white", **style)
            left.plot(size, lines["bpd_betting"], label=label, **style)
            right.plot(size, lines["bpd_risk"], **style)
        for label, style in (("paper's formula", {"linestyle": "--", "markerfacecolor": "white"}), ("betting bound, loss", {})):
            left.plot([], [], color="0.3", marker="o", markersize=5, label=label, **style)
        guess = data["bpd_random_guess"].max()
        if data["bpd_azuma"].max() > 0.75 * guess:
            left.axhline(guess, color="0.5", linewidth=1, linestyle=":", label="random guess")
        for axes, title in ((left, "BPD bound"), (right, "BPD training loss")):
            axes.set_xlabel("compressed model size (MB)")
            axes.set_ylabel(title)
            log_axis(axes)
        figure.legend(fontsize=7, loc="outside lower center", ncols=4)
        save(figure, pdf, png)


def write_parameters_figure(models, labels, *, csv, pdf, png):
    """Validation loss against trainable parameters, a line per structure: the paper's Figure 1, right.

    Parameters
    ----------
    models : dict of str to dict
        By name, the ``config.json`` of each trained model.
    labels : list of (str, str)
        Legend label and model, in the order of the legend.
    """
    facts = {name: config["provenance"] for name, config in models.items()}
    data = pd.DataFrame(
        {
            "series": label,
            "model": name,
            "trainable_parameters": facts[name]["parameters"],
            "val_loss_nats": facts[name]["final"]["val_loss_nats"],
            "train_loss_nats": facts[name]["final"]["train_loss_nats"],
            "tokens": facts[name]["final"]["tokens"],
        }
        for label, name in labels
    )
    with atomic_path(csv) as temporary:
        data.to_csv(temporary, index=False)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.0, 2.9), layout="constrained")
        for (label, lines), (colour, marker) in zip(data.groupby("series", sort=False), looks(), strict=False):
            lines = lines.sort_values("trainable_parameters")
            axes.plot(lines["trainable_parameters"], lines["val_loss_nats"], color=colour, marker=marker, markersize=5, label=label)
        axes.set(xlabel="trainable parameters", ylabel="validation loss (nats per token)")
        log_axis(axes)
        axes.legend(fontsize=8)
        save(figure, pdf, png)


def log_axis(axes, most=6):
    """A logarithmic x axis with a few ticks as plain numbers, thousands as k and millions as M."""
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
    """Colour and marker of each line: 42 differ."""
    return zip(itertools.cycle(COLOURS), itertools.cycle((*MARKERS, "X")), strict=True)


def save(figure, pdf, png):
    """Save a figure as pdf and png, atomically and without the time of day, and close it."""
    for path, form, metadata in ((pdf, "pdf", {"CreationDate": None}), (png, "png", {"Software": None})):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=form, metadata=metadata)
    plt.close(figure)
