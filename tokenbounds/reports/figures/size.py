"""The paper's Figure 1: bounds against compressed size, and losses against trainable parameters."""

import pandas as pd

from tokenbounds.bounds.methods import HEADLINE, REFERENCE
from tokenbounds.certificates.files import read_certificate
from tokenbounds.reports.figures.style import STYLE, each_series, log_axis, plt, save
from tokenbounds.reports.formats import write_csv
from tokenbounds.reports.rows import best_of

# Columns of the two bounds that are drawn.
FORMULA, BOUND = (f"bpd_{method.name}" for method in (REFERENCE, HEADLINE))


def size_figure_data(certificates, series):
    """Collect the numbers of the figure, a line per certificate.

    Parameters
    ----------
    certificates : list of dict
    series : list of (str, str)
        Per certificate its legend label and its own label.
    """
    lines = []
    for certificate, (label, name) in zip(certificates, series, strict=True):
        bpd = certificate["metrics"]["bpd"]
        lines.append(
            {
                "series": label,
                "label": name,
                "certificate": certificate["name"],
                "message_bytes": certificate["hypothesis"]["message_bytes"],
                "bpd_risk": bpd["empirical_risk"],
                FORMULA: bpd["bounds"][REFERENCE.name]["value"],
                BOUND: bpd["bounds"][HEADLINE.name]["value"],
                "bpd_random_guess": bpd["random_guess"],
            }
        )
    return pd.DataFrame(lines)


def write_size_figure(certificates, series, *, csv, pdf, png):
    """Draw bound (left) and training loss (right) against compressed size: Figure 1, left and middle.

    The paper's formula is drawn dashed with open markers, the headline bound solid; one legend for both
    panels.
    """
    data = size_figure_data(certificates, series)
    write_csv(csv, data)
    dashed = {"linestyle": "--", "markerfacecolor": "white"}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
        for label, lines, look in each_series(data):
            lines = lines.sort_values("message_bytes")
            size = lines["message_bytes"] / 1e6
            look |= {"markersize": 5}
            left.plot(size, lines[FORMULA], **dashed, **look)
            left.plot(size, lines[BOUND], label=label, **look)
            right.plot(size, lines["bpd_risk"], **look)
        for label, style in (("paper's formula", dashed), (f"{HEADLINE.label} bound, loss", {})):
            left.plot([], [], color="0.3", marker="o", markersize=5, label=label, **style)
        guess = data["bpd_random_guess"].max()
        if data[FORMULA].max() > 0.75 * guess:
            left.axhline(guess, color="0.5", linewidth=1, linestyle=":", label="random guess")
        for axes, title in ((left, "BPD bound"), (right, "BPD training loss")):
            axes.set_xlabel("compressed model size (MB)")
            axes.set_ylabel(title)
            log_axis(axes)
        figure.legend(fontsize=7, loc="outside lower center", ncols=4)
        save(figure, pdf, png)


def draw(inputs, spec, outputs):
    """Draw the figure for the workflow (see `tokenbounds.config.schema.figures.SizeFigure`)."""
    certificates = best_of([read_certificate(path) for path in inputs["certificates"]], spec["counts"])
    write_size_figure(certificates, spec["labels"], **outputs)
