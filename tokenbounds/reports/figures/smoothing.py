"""The paper's Figure 3: the effect of a smoothing head on the bound that it was trained on."""

from pathlib import Path

import numpy as np
import pandas as pd

from tokenbounds.bounds import Bpd, Claim, candidates_of, grids_of
from tokenbounds.bounds.methods import METHODS
from tokenbounds.certificates.files import read_certificate
from tokenbounds.io.files import read_json
from tokenbounds.reports.figures.style import COLOURS, STYLE, log_axis, plt, save
from tokenbounds.reports.formats import write_csv
from tokenbounds.scoring.records import read_records

START = 0.5  # weight of every token under an untrained head
BINS = 40


def constant_bound(certificate, records, method, alphas, candidates):
    """Bound bits per token with the best constant smoothing of `alphas`, as if chosen from the whole grid.

    Parameters
    ----------
    certificate : dict
        Of a hypothesis without smoothing head.
    records : dict of str to ndarray
        Its records, one token per draw.
    method : str
        Name of the bound.
    alphas : list of float
        Of the certificate's grid.
    candidates : int
        Number of results selected from, as in the certificate that it is compared with.

    Returns
    -------
    float
    """
    settings = certificate["settings"]
    left_out = len(settings["alpha"]) / len(alphas)
    claim = Claim(
        certificate["hypothesis"]["message_bits"],
        certificate["m"],
        certificate["delta"],
        certificate["choices_bits"]
        | certificate["tokenizer_bits"]
        | {"rest of the alpha grid": float(np.log2(left_out))},
        candidates,
        grids_of(settings | {"alpha": alphas}),
    )
    errors = {key: certificate[key] for key in ("epsilon_nats", "entropy_epsilon_bits")}
    losses = Bpd(records["log2_q"], certificate["vocab_size"], records["entropy_bits"], **errors)
    return METHODS[method].bound(losses, claim).value


def write_smoothing_figure(run, heads, bases, labels, methods, parameters, *, csv, alpha, pdf, png):
    """Draw the bounds with smoothing heads beside those with a constant smoothing.

    Left: bound before (smoothing .5), with the best constant and with the head, against trainable parameters.
    Middle: bound against a constant smoothing, beside the head's. Right: histogram of the head's smoothing
    over the drawn tokens. Middle and right show the first head of each method.

    Parameters
    ----------
    run : path
        Folder of the run, which the certificates' paths are relative to.
    heads, bases : list of dict
        Certificates with and without smoothing head, of the same models.
    labels, methods : list of str
        Name of each head in the figure, and of the bound that it was trained on.
    parameters : list of int
        Trainable parameters of the models.
    csv, alpha, pdf, png : path
        Outputs: the left panel's numbers, those of the other two, and the figure.
    """
    lines, panels, first = [], [], {}
    for head, base, label, method, count in zip(heads, bases, labels, methods, parameters, strict=True):
        record, grid = (
            read_records([run / item["path"] for item in base["records"]]),
            base["settings"]["alpha"],
        )
        candidates = candidates_of(head["settings"])  # a head that a row selects has a smaller share of delta
        line = {
            "label": label,
            "method": method,
            "certificate": head["name"],
            "trainable_parameters": count,
            "before": constant_bound(base, record, method, [START], candidates),
            "constant": constant_bound(base, record, method, grid, candidates),
            "head": head["metrics"]["bpd"]["bounds"][method]["value"],
        }
        lines.append(line)
        if method not in first:
            first[method] = line
            for value in grid:
                bound = constant_bound(base, record, method, [value], candidates)
                panels.append({"method": method, "alpha": value, "bound": bound})
            panels += _histogram(run, head, method)
    data, details = pd.DataFrame(lines), pd.DataFrame(panels)
    write_csv(csv, data)
    write_csv(alpha, details)
    _draw_panels(data, details, first, pdf, png)


def _histogram(run, head, method):
    """Count the drawn tokens by the head's weight."""
    drawn = read_records([run / item["path"] for item in head["records"]], head=True)["alpha"]
    declared = head["hypothesis"]["alpha_head"]
    counts, edges = np.histogram(drawn, bins=np.geomspace(declared["low"], declared["high"], BINS + 1))
    bins = zip(edges, edges[1:], counts, strict=False)
    return [
        {"method": method, "alpha": low, "alpha_to": high, "tokens": number} for low, high, number in bins
    ]


def _draw_panels(data, details, first, pdf, png):
    """Draw the three panels; `first` holds the line of the first head of each method."""
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.3), layout="constrained")
        for method, colour in zip((name for name in METHODS if name in first), COLOURS, strict=False):
            label = METHODS[method].label
            _draw_sizes(left, label, colour, data[data["method"] == method])
            _draw_weights(middle, right, label, colour, details[details["method"] == method])
            middle.axhline(first[method]["head"], color=colour, linewidth=1.2, label=f"{label}, head")
        left.set(xlabel="trainable parameters", ylabel="BPD bound")
        title = " / ".join(dict.fromkeys(line["label"] for line in first.values()))
        middle.set(xlabel="prediction smoothing (α)", ylabel="BPD bound", title=title)
        right.set(xlabel="prediction smoothing (α) of the head", ylabel="drawn tokens", title=title)
        for axes in (left, middle, right):
            log_axis(axes)
            axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        save(figure, pdf, png)


def _draw_sizes(axes, label, colour, data):
    """Draw the bounds of one method against trainable parameters."""
    data = data.sort_values("trainable_parameters")
    for state, title, marker, style in (
        ("before", f"α = {START:g}", "o", ":"),
        ("constant", "best constant α", "s", "--"),
        ("head", "head", "^", "-"),
    ):
        look = {"color": colour, "marker": marker, "linestyle": style, "markersize": 4}
        axes.plot(data["trainable_parameters"], data[state], label=f"{label}, {title}", **look)


def _draw_weights(middle, right, label, colour, details):
    """Draw the bound against a constant smoothing, and the histogram of the head's smoothing."""
    constant, histogram = details[details["bound"].notna()], details[details["bound"].isna()]
    look = {"color": colour, "marker": "s", "markersize": 4}
    middle.plot(constant["alpha"], constant["bound"], label=f"{label}, constant α", **look)
    edges = [*histogram["alpha"], histogram["alpha_to"].iloc[-1]]
    right.stairs(histogram["tokens"], edges, fill=True, color=colour, alpha=0.5, label=f"head for {label}")


def draw(inputs, spec, outputs):
    """Draw the figure for the workflow (see `tokenbounds.config.schema.figures.SmoothingFigure`)."""
    run = Path(inputs["heads"][0]).parent.parent
    heads, bases = ([read_certificate(path) for path in inputs[key]] for key in ("heads", "bases"))
    parameters = [read_json(path)["provenance"]["parameters"] for path in inputs["models"]]
    write_smoothing_figure(run, heads, bases, spec["labels"], spec["methods"], parameters, **outputs)
