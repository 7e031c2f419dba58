"""The paper's Figure 2 and Table 7: what the bound is about, and that it goes with downstream performance (docs/meaning.md)."""

import itertools
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats

from tokenbounds.errors import InputError
from tokenbounds.figures import COLOURS, STYLE, log_axis, save
from tokenbounds.files import atomic_path, write_text
from tokenbounds.records import read_records
from tokenbounds.tables import latex, markdown

SHORT = {"perplexity": "PPL", "accuracy": "ACC"}
BINS = 40
NOTE = (
    "Objective: mean bits of what {generator} draws anew after contexts of {corpus}, which approximates the bounded quantity "
    "(docs/meaning.md). PPL and ACC are downstream performance, not bounds: {source}. Means are arithmetic means over the datasets. "
    "Last line: Pearson correlation of each column with the objective, over the {count} models."
)
MEASURED = "measured on {n:,} drawn tokens of each corpus"


def pearson(first, second):
    """Pearson's correlation of two sequences of numbers; NaN where one of them is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        return float(scipy.stats.pearsonr(first, second).statistic)


def comparison(evaluations, labels, downstream):
    """Downstream performance and objective of the evaluated models.

    Parameters
    ----------
    evaluations : list of dict
        As `tokenbounds.resampling.evaluate` returns them, each with its ``model``.
    labels : list of str
        What each is called.
    downstream : list of dict
        The `downstream` section of the figure: ``label``, ``metric``, and ``corpus`` or ``published``.

    Returns
    -------
    data : DataFrame
        Per model ``label``, ``parameters``, ``objective_bits``, ``objective_standard_error``, ``scored``, ``left_out``, a column per
        dataset and metric (``"{label} PPL"``, ``"{label} ACC"``; measured ones with ``... standard error``), ``mean PPL``, ``mean ACC``.
    correlations : dict of str to float
        Pearson's r between the objective and each column of performance.
    """
    keys = ("parameters", "objective_bits", "objective_standard_error", "scored", "left_out")
    data = pd.DataFrame([{"label": label, **{key: found[key] for key in keys}} for label, found in zip(labels, evaluations, strict=True)])
    columns = {"perplexity": [], "accuracy": []}
    for item in downstream:
        metric, column = item["metric"], f"{item['label']} {SHORT[item['metric']]}"
        columns[metric].append(column)
        if "published" in item:
            data[column] = [item["published"][found["model"]] for found in evaluations]
            continue
        measured = [found["downstream"][item["corpus"]] for found in evaluations]
        data[column] = [found[metric] for found in measured]
        data[f"{column} standard error"] = [found[f"{metric}_standard_error"] for found in measured]
    for metric, names in columns.items():
        if names:
            data[f"mean {SHORT[metric]}"] = data[names].mean(axis=1)
            names.append(f"mean {SHORT[metric]}")
    return data, {name: pearson(data["objective_bits"], data[name]) for names in columns.values() for name in names}


def write_meaning_table(evaluations, labels, downstream, caption, note, *, csv, md, tex):
    """Write the table: a line per model, and one with the correlations.

    Parameters
    ----------
    evaluations, labels, downstream
        As for `comparison`.
    caption : str
    note : dict
        ``generator``, ``corpus``, ``draws`` and perhaps ``source`` (of published numbers), for the line below the table.
    csv, md, tex : path
        Outputs.
    """
    data, correlations = comparison(evaluations, labels, downstream)
    with atomic_path(csv) as temporary:
        whole = dict.fromkeys(("parameters", "scored", "left_out"), "Int64")
        pd.concat([data, pd.DataFrame([{"label": "correlation", **correlations}])]).astype(whole).to_csv(temporary, index=False)
    rows = [
        {
            "model": line["label"],
            "parameters": f"{line['parameters']:,}",
            **{name: f"{line[name]:.2f}" for name in correlations},
            "objective [bits]": f"{line['objective_bits']:.3f} ± {line['objective_standard_error']:.3f}",
        }
        for line in data.to_dict("records")
    ]
    shown = {name: "undefined" if math.isnan(value) else f"{value:+.3f}" for name, value in correlations.items()}
    view = pd.DataFrame([*rows, {"model": "correlation", "parameters": "", **shown, "objective [bits]": ""}])
    sources = [MEASURED.format(n=note["draws"])] if any("corpus" in item for item in downstream) else []
    sources += [f"as published by {note['source']}"] if note.get("source") else []
    below = NOTE.format(**{key: note[key] for key in ("generator", "corpus")}, source=", ".join(sources), count=len(labels))
    write_text(md, markdown(view, caption) + f"\n{below}\n")
    write_text(tex, latex(view, caption))


def index_edges(longest):
    """Bins of the token index in a context of `longest` tokens: powers of two to a quarter, the quarters, and the full context alone.

    Returns
    -------
    list of int
        Bin j holds the indices from edge j to before edge j + 1.
    """
    powers = [2**exponent for exponent in range(max(1, longest).bit_length()) if 4 * 2**exponent <= longest]
    return sorted({0, *powers, *(longest * quarter // 4 for quarter in (1, 2, 3)), longest, longest + 1})


def entropy_by_index(index, entropy_bits, longest):
    """Mean entropy against the token's index in its context, in bins (`index_edges`).

    Parameters
    ----------
    index : ndarray of int, shape (n,)
        Tokens of context of each drawn token, at most `longest`.
    entropy_bits : ndarray of float64, shape (n,)
    longest : int

    Returns
    -------
    DataFrame
        Per bin with at least two tokens: ``index`` (mean), ``first``, ``last``, ``tokens``, ``entropy_bits`` (mean), ``standard_error``.
    """
    if index.max() > longest:
        raise InputError(f"records: a context of {index.max()} tokens; expected at most {longest}")
    edges, lines = index_edges(longest), []
    for first, stop in itertools.pairwise(edges):
        chosen = (index >= first) & (index < stop)
        if (tokens := int(chosen.sum())) < 2:
            continue
        found = entropy_bits[chosen]
        error = found.std(ddof=1) / math.sqrt(tokens)
        line = {"index": index[chosen].mean(), "first": first, "last": stop - 1, "tokens": tokens}
        lines.append(line | {"entropy_bits": found.mean(), "standard_error": error})
    return pd.DataFrame(lines, columns=["index", "first", "last", "tokens", "entropy_bits", "standard_error"])


def figure_data(records, longest, data):
    """Numbers of the three panels, one below the other.

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
        ``panel`` (histogram, index, size), ``series``, ``x``, ``x_to`` (end of a bin), ``y``, ``standard_error``.
    """
    counts, edges = np.histogram(records["entropy_bits"], bins=BINS, range=(0, max(records["entropy_bits"].max(), 1e-9)))
    left = pd.DataFrame({"panel": "histogram", "series": "tokens", "x": edges[:-1], "x_to": edges[1:], "y": counts})
    by_index = entropy_by_index(records["context_length"], records["entropy_bits"], longest)
    columns = {"index": "x", "last": "x_to", "entropy_bits": "y"}
    middle = by_index.rename(columns=columns)[["x", "x_to", "y", "standard_error"]].assign(panel="index", series="entropy_bits")
    right = []
    for series in ("mean PPL", "mean ACC", "objective_bits"):
        if series in data:
            errors = {"standard_error": data["objective_standard_error"]} if series == "objective_bits" else {}
            right.append(pd.DataFrame({"panel": "size", "series": series, "x": data["parameters"], "y": data[series], **errors}))
    return pd.concat([left, middle, *right], ignore_index=True)[["panel", "series", "x", "x_to", "y", "standard_error"]]


def write_meaning_figure(records_paths, head, longest, evaluations, labels, downstream, names, *, csv, pdf, png):
    """Left: histogram of the entropy of the next token. Middle: its mean against the token's index in its context. Right: downstream
    performance (left axis) and the resampled objective (right axis) of the evaluated models against their size.

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
        What the models of the entropy and of the resampling are called.
    csv, pdf, png : path
        Outputs.
    """
    comparisons, correlations = comparison(evaluations, labels, downstream)
    numbers = figure_data(read_records(records_paths, head=head), longest, comparisons)
    with atomic_path(csv) as temporary:
        numbers.to_csv(temporary, index=False)
    panels = dict(list(numbers.groupby("panel")))
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.2), layout="constrained")
        histogram, index, size = panels["histogram"], panels["index"], panels["size"].sort_values("x")
        left.stairs(histogram["y"], [*histogram["x"], histogram["x_to"].iloc[-1]], fill=True, color=COLOURS[0], alpha=0.6)
        left.set(xlabel="entropy of the next token (bits)", ylabel="drawn tokens", title=names[0])
        look = {"color": COLOURS[0], "marker": "o", "markersize": 4, "capsize": 2}
        middle.errorbar(index["x"], index["y"], yerr=index["standard_error"], **look)
        middle.set(xlabel="token index in its context", ylabel="mean entropy (bits)", ylim=(0, None), title=names[0])
        middle.set_xscale("symlog", base=2, linthresh=1)
        middle.set_xlim(-0.5, longest * 1.3)
        ticks = [tick for tick in (0, 1, 4, 16, 64, 256, 1024, 4096) if tick <= longest]
        middle.set_xticks(ticks, [str(tick) for tick in ticks])
        twin, lines = right.twinx(), []
        for series, colour, marker in (("mean PPL", COLOURS[1], "s"), ("mean ACC", COLOURS[2], "^")):
            points = size[size["series"] == series]
            if len(points):
                label = f"{series.removeprefix('mean ')} (r = {correlations[series]:+.3f})"
                lines += right.plot(points["x"], points["y"], color=colour, marker=marker, markersize=4, label=label)
        points = size[size["series"] == "objective_bits"]
        line = twin.errorbar(points["x"], points["y"], yerr=points["standard_error"], linestyle="--", label="objective", **look)
        twin.spines["right"].set_visible(True)
        twin.grid(False)
        right.set(xlabel="parameters", ylabel="downstream PPL, ACC (%)", title=f"next tokens from {names[1]}")
        twin.set_ylabel("objective (bits)")
        log_axis(right)
        right.legend(handles=[*lines, line], fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1)
        for axes in (left, middle, right):
            axes.title.set_fontsize(8)
        save(figure, pdf, png)
