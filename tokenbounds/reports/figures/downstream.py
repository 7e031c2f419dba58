"""The paper's Figure 2 and Table 7: the bounded quantity and downstream performance (docs/downstream.md)."""

import itertools
import math

import numpy as np
import pandas as pd

from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json
from tokenbounds.reports.downstream_table import comparison
from tokenbounds.reports.figures.style import COLOURS, STYLE, log_axis, plt, save
from tokenbounds.reports.formats import write_csv
from tokenbounds.scoring.records import read_records

BINS = 40


def index_edges(longest):
    """Choose bins of the token index in a context of `longest` tokens.

    Powers of two to a quarter, then the quarters, and the full context alone.

    Returns
    -------
    list of int
        Bin j holds the indices from edge j to before edge j + 1.
    """
    powers = [2**exponent for exponent in range(max(1, longest).bit_length()) if 4 * 2**exponent <= longest]
    quarters = [longest * quarter // 4 for quarter in (1, 2, 3)]
    return sorted({0, *powers, *quarters, longest, longest + 1})


def entropy_by_index(index, entropy_bits, longest):
    """Average the entropy over bins of the token's index in its context (`index_edges`).

    Parameters
    ----------
    index : ndarray of int, shape (n,)
        Tokens of context of each drawn token, at most `longest`.
    entropy_bits : ndarray of float64, shape (n,)
    longest : int

    Returns
    -------
    DataFrame
        Per bin with at least two tokens: ``index`` (mean), ``first``, ``last``, ``tokens``, ``entropy_bits``
        (mean), ``standard_error``.
    """
    if index.max() > longest:
        raise InputError(f"records: a context of {index.max()} tokens; expected at most {longest}")
    edges, lines = index_edges(longest), []
    for first, stop in itertools.pairwise(edges):
        chosen = (index >= first) & (index < stop)
        if (tokens := int(chosen.sum())) < 2:
            continue
        values = entropy_bits[chosen]
        error = values.std(ddof=1) / math.sqrt(tokens)
        line = {"index": index[chosen].mean(), "first": first, "last": stop - 1, "tokens": tokens}
        lines.append(line | {"entropy_bits": values.mean(), "standard_error": error})
    return pd.DataFrame(lines, columns=["index", "first", "last", "tokens", "entropy_bits", "standard_error"])


def figure_data(records, longest, data):
    """Collect the numbers of the three panels, one below the other.

    Parameters
    ----------
    records : dict of str to ndarray
        ``entropy_bits`` and ``context_length``.
    longest : int
        Most tokens of context.
    data : DataFrame
        From `comparison`.

    Returns
    -------
    DataFrame
        ``panel`` (histogram, index, size), ``series``, ``x``, ``x_to`` (end of a bin), ``y``,
        ``standard_error``.
    """
    entropies = records["entropy_bits"]
    counts, edges = np.histogram(entropies, bins=BINS, range=(0, max(entropies.max(), 1e-9)))
    left = pd.DataFrame(
        {"panel": "histogram", "series": "tokens", "x": edges[:-1], "x_to": edges[1:], "y": counts}
    )
    by_index = entropy_by_index(records["context_length"], entropies, longest)
    middle = by_index.rename(columns={"index": "x", "last": "x_to", "entropy_bits": "y"})
    middle = middle[["x", "x_to", "y", "standard_error"]].assign(panel="index", series="entropy_bits")
    right = []
    for series in ("mean PPL", "mean ACC", "objective_bits"):
        if series in data:
            errors = (
                {"standard_error": data["objective_standard_error"]} if series == "objective_bits" else {}
            )
            numbers = {"x": data["parameters"], "y": data[series], **errors}
            right.append(pd.DataFrame({"panel": "size", "series": series, **numbers}))
    columns = ["panel", "series", "x", "x_to", "y", "standard_error"]
    return pd.concat([left, middle, *right], ignore_index=True)[columns]


def write_downstream_figure(
    records_paths, head, longest, evaluations, labels, downstream, names, *, csv, pdf, png
):
    """Draw the entropy of the next token, and downstream performance beside the resampled objective.

    Left: histogram of the entropy. Middle: its mean against the token's index in its context. Right:
    downstream performance (left axis) and the objective (right axis) of the evaluated models against their
    size.

    Parameters
    ----------
    records_paths : list of path
        Records of the entropy's model, on drawn tokens or windows.
    head : bool
        Whether that model has a smoothing head.
    longest : int
        Most tokens of context of a record.
    evaluations, labels, downstream
        As for `comparison`.
    names : (str, str)
        Names of the models of the entropy and of the resampling.
    csv, pdf, png : path
        Outputs.
    """
    comparisons, correlations = comparison(evaluations, labels, downstream)
    numbers = figure_data(read_records(records_paths, head=head), longest, comparisons)
    write_csv(csv, numbers)
    panels = dict(list(numbers.groupby("panel")))
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
        histogram = panels["histogram"]
        edges = [*histogram["x"], histogram["x_to"].iloc[-1]]
        left.stairs(histogram["y"], edges, fill=True, color=COLOURS[0], alpha=0.6)
        left.set(xlabel="entropy of the next token (bits)", ylabel="drawn tokens", title=names[0])
        _draw_index(middle, panels["index"], longest, names[0])
        _draw_performance(right, panels["size"].sort_values("x"), correlations, names[1])
        for axes in (left, middle, right):
            axes.title.set_fontsize(8)
        save(figure, pdf, png)


_OBJECTIVE_LOOK = {"color": COLOURS[0], "marker": "o", "markersize": 4, "capsize": 2}


def _draw_index(axes, index, longest, name):
    """Draw the mean entropy against the token's index."""
    axes.errorbar(index["x"], index["y"], yerr=index["standard_error"], **_OBJECTIVE_LOOK)
    axes.set(xlabel="token index in its context", ylabel="mean entropy (bits)", ylim=(0, None), title=name)
    axes.set_xscale("symlog", base=2, linthresh=1)
    axes.set_xlim(-0.5, longest * 1.3)
    ticks = [tick for tick in (0, 1, 4, 16, 64, 256, 1024, 4096) if tick <= longest]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])


def _draw_performance(axes, size, correlations, name):
    """Draw downstream performance (left axis) and objective (right axis) against size."""
    twin, lines = axes.twinx(), []
    for series, colour, marker in (("mean PPL", COLOURS[1], "s"), ("mean ACC", COLOURS[2], "^")):
        points = size[size["series"] == series]
        if len(points):
            label = f"{series.removeprefix('mean ')} (r = {correlations[series]:+.3f})"
            look = {"color": colour, "marker": marker, "markersize": 4}
            lines += axes.plot(points["x"], points["y"], label=label, **look)
    points = size[size["series"] == "objective_bits"]
    errors = points["standard_error"]
    look = {"linestyle": "--", "label": "objective", **_OBJECTIVE_LOOK}
    line = twin.errorbar(points["x"], points["y"], yerr=errors, **look)
    twin.spines["right"].set_visible(True)
    twin.grid(False)
    axes.set(xlabel="parameters", ylabel="downstream PPL, ACC (%)", title=f"next tokens from {name}")
    twin.set_ylabel("objective (bits)")
    log_axis(axes)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 3, "columnspacing": 1}
    axes.legend(handles=[*lines, line], fontsize=7, **place)


def draw(inputs, spec, outputs):
    """Draw the figure for the workflow (see `tokenbounds.config.schema.figures.DownstreamFigure`)."""
    evaluations = read_json(inputs["scores"][0])["models"]
    options = {key: spec[key] for key in ("head", "longest", "labels", "downstream", "names")}
    write_downstream_figure(inputs["records"], evaluations=evaluations, **options, **outputs)
