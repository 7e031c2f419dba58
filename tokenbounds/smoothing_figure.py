"""The paper's Figure 3: what a smoothing head does to the bound that it was trained on."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tokenbounds import bounds
from tokenbounds.figures import COLOURS, STYLE, log_axis, save
from tokenbounds.files import atomic_path
from tokenbounds.metrics import grids_of
from tokenbounds.records import read_records

START = 0.5  # what an untrained head gives every token
SHOWN = {"azuma_rigorous": "azuma (rigorous)", "betting": "betting"}


def constant_bound(certificate, records, method, alphas, candidates):
    """Bound on bits per token with the best constant smoothing of `alphas`, the choice of one of the whole grid paid for.

    Parameters
    ----------
    certificate : dict
        Of a hypothesis without smoothing head.
    records : dict of str to ndarray
        Its records, one token per draw.
    method : {"azuma_rigorous", "betting"}
    alphas : list of float
        Of the certificate's grid.
    candidates : int
        Of how many results one may be picked: those of the certificate that it is compared with.

    Returns
    -------
    float
    """
    settings, paid = certificate["settings"], len(certificate["settings"]["alpha"]) / len(alphas)
    arguments = (records["log2_q"], certificate["vocab_size"], certificate["hypothesis"]["message_bits"], certificate["m"])
    options = {
        "delta": certificate["delta"],
        "grids": grids_of(settings | {"alpha": alphas}),
        "extra_bits": certificate["choices_bits"] | {"rest of the alpha grid": float(np.log2(paid))},
        "candidates": candidates,
        "numeric_slack_bits": bounds.numeric_slack_bits(certificate["epsilon_nats"]),
    }
    if method == "betting":
        return bounds.betting_bpd(*arguments, entropies=records["entropy_bits"], **options).value
    return bounds.azuma_rigorous_bpd(*arguments, **options).value


def write_smoothing_figure(run, heads, bases, labels, methods, parameters, *, csv, alpha, pdf, png):
    """Left: bound before (smoothing .5), with the best constant and with the head, against trainable parameters. Middle: bound against a
    constant smoothing, beside the head's. Right: histogram of the head's smoothing over the drawn tokens. Middle and right show the first
    head of each method.

    Parameters
    ----------
    run : path
        Folder of the run, which the certificates' paths are relative to.
    heads, bases : list of dict
        Certificates with and without smoothing head, of the same models.
    labels, methods : list of str
        What each head is called, and the bound that it was trained on.
    parameters : list of int
        Trainable parameters of the models.
    csv, alpha, pdf, png : path
        Outputs: the left panel's numbers, those of the other two, and the figure.
    """
    lines, panels, first = [], [], {}
    for head, base, label, method, count in zip(heads, bases, labels, methods, parameters, strict=True):
        record, grid = read_records([run / item["path"] for item in base["records"]]), base["settings"]["alpha"]
        candidates = head["settings"]["candidates"]  # a certificate that a row picks from several has a smaller share of delta
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
        if method in first:
            continue
        first[method] = line
        for value in grid:
            panels.append({"method": method, "alpha": value, "bound": constant_bound(base, record, method, [value], candidates)})
        drawn = read_records([run / item["path"] for item in head["records"]], head=True)["alpha"]
        counts, edges = np.histogram(drawn, bins=np.geomspace(*(head["hypothesis"]["alpha_head"][key] for key in ("low", "high")), 41))
        panels += [
            {"method": method, "alpha": low, "alpha_to": high, "tokens": number}
            for low, high, number in zip(edges, edges[1:], counts, strict=False)
        ]
    data, details = pd.DataFrame(lines), pd.DataFrame(panels)
    for path, frame in ((csv, data), (alpha, details)):
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False)
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.3), layout="constrained")
        for method, colour in zip(SHOWN, COLOURS, strict=False):
            if method in first:
                _draw(left, middle, right, method, colour, data[data["method"] == method], details[details["method"] == method])
                middle.axhline(first[method]["head"], color=colour, linewidth=1.2, label=f"{SHOWN[method]}, head")
        left.set(xlabel="trainable parameters", ylabel="BPD bound")
        title = " / ".join(dict.fromkeys(line["label"] for line in first.values()))
        middle.set(xlabel="prediction smoothing (α)", ylabel="BPD bound", title=title)
        right.set(xlabel="prediction smoothing (α) of the head", ylabel="drawn tokens", title=title)
        for axes in (left, middle, right):
            log_axis(axes)
            axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        save(figure, pdf, png)


def _draw(left, middle, right, method, colour, data, details):
    data = data.sort_values("trainable_parameters")
    for state, title, marker, style in (
        ("before", f"α = {START:g}", "o", ":"),
        ("constant", "best constant α", "s", "--"),
        ("head", "head", "^", "-"),
    ):
        look = {"color": colour, "marker": marker, "linestyle": style, "markersize": 4}
        left.plot(data["trainable_parameters"], data[state], label=f"{SHOWN[method]}, {title}", **look)
    constant, histogram = details[details["bound"].notna()], details[details["bound"].isna()]
    middle.plot(constant["alpha"], constant["bound"], color=colour, marker="s", markersize=4, label=f"{SHOWN[method]}, constant α")
    edges = [*histogram["alpha"], histogram["alpha_to"].iloc[-1]]
    right.stairs(histogram["tokens"], edges, fill=True, color=colour, alpha=0.5, label=f"head for {SHOWN[method]}")
