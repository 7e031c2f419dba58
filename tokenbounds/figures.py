"""Certificates to figures; the numbers behind each go to a csv beside it."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
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

    The paper's formula is drawn dashed with open markers, the betting bound solid.
    """
    data = size_figure_data(certificates, series)
    with atomic_path(csv) as temporary:
        data.to_csv(temporary, index=False)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
        looks = zip(itertools.cycle(COLOURS), itertools.cycle((*MARKERS, "X")), strict=True)  # 42 differ
        for (label, lines), (colour, marker) in zip(data.groupby("series", sort=False), looks, strict=False):
            lines = lines.sort_values("message_bytes")
            size = lines["message_bytes"] / 1e6
            style = {"color": colour, "marker": marker, "markersize": 5}
            left.plot(size, lines["bpd_azuma"], linestyle="--", markerfacecolor="white", label=f"{label}, paper's formula", **style)
            left.plot(size, lines["bpd_betting"], label=f"{label}, betting", **style)
            right.plot(size, lines["bpd_risk"], label=label, **style)
        guess = data["bpd_random_guess"].max()
        if data["bpd_azuma"].max() > 0.75 * guess:
            left.axhline(guess, color="0.5", linewidth=1, linestyle=":", label="random guess")
        for axes, title in ((left, "BPD bound"), (right, "BPD training loss")):
            axes.set_xscale("log")
            axes.set_xlabel("compressed model size (MB)")
            axes.set_ylabel(title)
            ticks = matplotlib.ticker.LogLocator(subs=(1, 2, 5))
            axes.xaxis.set_major_locator(ticks)
            axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        left.legend(fontsize=8)
        if data["series"].nunique() > 1:
            right.legend(fontsize=8)
        save(figure, pdf, png)


def save(figure, pdf, png):
    """Save a figure as pdf and png, atomically and without the time of day, and close it."""
    for path, form, metadata in ((pdf, "pdf", {"CreationDate": None}), (png, "png", {"Software": None})):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=form, metadata=metadata)
    plt.close(figure)
