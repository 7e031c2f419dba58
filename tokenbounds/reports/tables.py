"""Tables from certificates: every number in the csv, the paper's selection in markdown and LaTeX."""

import math
from pathlib import Path

import pandas as pd

from tokenbounds.bounds import CONDITIONING, Bpd, TopK
from tokenbounds.bounds.methods import HEADLINE, METHODS
from tokenbounds.certificates.files import read_certificate
from tokenbounds.io.files import read_json, write_text
from tokenbounds.reports.formats import latex, markdown, write_csv
from tokenbounds.reports.rows import best_of

TERMS = {
    "risk": "empirical_risk",
    "complexity": "complexity_term",
    "draws": "subsample_term",
}
TERMS_CAPTION = "Terms of each BPD bound, in bits. (cap): the largest possible loss, less than their sum."
BY_ITSELF = "Each bound holds by itself with the probability that its certificate states."
NOT_PAIRED = "Each row has draws of its own, so that the rows are not paired."


def frame(certificates, labels, top_k, val_losses_nats=None):
    """Collect every number of a table, unrounded, one line per certificate.

    Parameters
    ----------
    certificates : list of dict
        As `tokenbounds.certificates.files.read_certificate` returns them.
    labels : list of str
        Name of each in the table.
    top_k : list of int
        Top-k errors to include.
    val_losses_nats : dict of str to float, optional
        Validation loss of each model in nats per token, before it was quantized.

    Returns
    -------
    DataFrame
        Columns label, certificate, message_bytes, m_tokens, n, with `val_losses_nats` val_loss_nats (ln V for
        the random guess), then per metric (``bpd``, ``top1``, ...) ``{metric}_risk``, for every method of the
        certificate ``{metric}_{method}`` (the bound) and ``{metric}_{method}_{term}`` for its terms, and
        ``{metric}_saving_percent`` (of the headline method against the reference). Errors are fractions, not
        percent. The last line is the random guess.
    """
    metrics = ["bpd", *(f"top{k}" for k in top_k)]
    lines = []
    for certificate, label in zip(certificates, labels, strict=True):
        line = {
            "label": label + flag(certificate),
            "certificate": certificate["name"],
            "message_bytes": certificate["hypothesis"]["message_bytes"],
            "m_tokens": certificate["m"],
            "n": certificate["n"],
        }
        if val_losses_nats is not None:
            line["val_loss_nats"] = val_losses_nats[certificate["name"].split(".")[0]]
        for metric in metrics:
            entry = certificate["metrics"][metric]
            line[f"{metric}_risk"] = entry["empirical_risk"]
            for method, bound in entry["bounds"].items():
                line[f"{metric}_{method}"] = bound["value"]
                line |= {f"{metric}_{method}_{term}": bound[key] for term, key in TERMS.items()}
            line[f"{metric}_saving_percent"] = entry["saving_percent"]
        lines.append(line)
    lines += _guesses(certificates, metrics, with_loss=val_losses_nats is not None)
    whole = dict.fromkeys(("message_bytes", "m_tokens", "n"), "Int64")  # although a guess has none
    return pd.DataFrame(lines).astype(whole)


def _guesses(certificates, metrics, with_loss):
    """Collect a line for the random guess on each corpus."""
    corpora = {}
    for certificate in certificates:
        corpora.setdefault((certificate["vocab_size"], certificate["corpus"]["name"]), certificate)
    lines = []
    for (vocab_size, corpus), certificate in sorted(corpora.items(), key=lambda item: item[0]):
        line = {"label": "Random guess" if len(corpora) == 1 else f"Random guess ({corpus})"}
        for metric in metrics:
            entry = certificate["metrics"][metric]
            line |= {f"{metric}_{column}": entry["random_guess"] for column in ("risk", *entry["bounds"])}
        if with_loss:
            line["val_loss_nats"] = math.log(vocab_size)
        lines.append(line)
    return lines


def flag(certificate):
    """Mark the label of a published model that failed the sanity check."""
    check = certificate.get("sanity_check")
    if not (check and check["bad"]):
        return ""
    return f" [suspect: {check['bits_per_token']:.1f} bits on {check['documents']} documents]"


def shown_methods(data, further=()):
    """List the methods that a table shows: those that bound every kind of metric, in every column.

    Those of `further` are shown too if they bound the bits per token.
    """
    suffix = "_saving_percent"
    metrics = [column.removesuffix(suffix) for column in data if column.endswith(suffix)]
    needed = {name: ["bpd"] for name in further}
    needed |= {name: metrics for name, method in METHODS.items() if {Bpd, TopK} <= set(method.can_bound)}
    listed = [name for name in METHODS if name in needed]
    return [name for name in listed if all(f"{metric}_{name}" in data for metric in needed[name])]


def notes(data, further=()):
    """Compose the notes below a table: the validity of each method that it shows, and of its rows."""
    methods = "; ".join(METHODS[name].note for name in shown_methods(data, further))
    return f"{methods}. {CONDITIONING}. {BY_ITSELF} {NOT_PAIRED}"


def shown(data, top_k, further=()):
    """Format the bounds for readers: per model a line for the risk and one per method; errors in percent.

    The methods `further` have empty cells for errors that they do not bound.
    """
    columns = {"BPD": ("bpd", 1), **{f"top-{k} [%]": (f"top{k}", 100) for k in top_k}}
    methods = {name: METHODS[name].label for name in shown_methods(data, further)}
    rows = []
    for line in data.to_dict("records"):
        guess = pd.isna(line["message_bytes"])
        for name, title in {"risk": ""}.items() if guess else ({"risk": "risk"} | methods).items():
            bounded = {column: key for column, key in columns.items() if f"{key[0]}_{name}" in line}
            values = {column: scale * line[f"{metric}_{name}"] for column, (metric, scale) in bounded.items()}
            if any(map(pd.isna, values.values())):  # made without this method
                continue
            cells = {column: f"{values[column]:.2f}" if column in values else "" for column in columns}
            first = name == "risk"
            row = {
                "model": line["label"] if first else "",
                "C(h) [kB]": f"{line['message_bytes'] / 1000:,.1f}" if first and not guess else "",
                "": title,
                **cells,
                "BPD saving": f"{line['bpd_saving_percent']:.0f}%" if name == HEADLINE.name else "",
            }
            if "val_loss_nats" in line:
                row["validation loss [nats]"] = f"{line['val_loss_nats']:.3f}" if first else ""
            rows.append(row)
    return pd.DataFrame(rows)


def shown_terms(data, further=()):
    """Format the terms of each BPD bound, in bits."""
    methods, rows = shown_methods(data, further), []
    for line in data[data["message_bytes"].notna()].to_dict("records"):
        names = [name for name in methods if pd.notna(line[f"bpd_{name}"])]
        for name in names:
            bound, terms = line[f"bpd_{name}"], {term: line[f"bpd_{name}_{term}"] for term in TERMS}
            capped = bound < sum(terms.values()) - 1e-9  # the largest possible loss instead of a larger sum
            row = {
                "model": line["label"] if name == names[0] else "",
                "": METHODS[name].label,
                "bound": f"{bound:.3f}{' (cap)' if capped else ''}",
            }
            columns = {f"{'=' if term == 'risk' else '+'} {term}": value for term, value in terms.items()}
            rows.append(row | {column: f"{value:.3f}" for column, value in columns.items()})
    return pd.DataFrame(rows)


def write_table(certificates, labels, top_k, caption, *, csv, md, tex, methods=(), val_losses_nats=None):
    """Write a table as csv (every number), markdown (bounds and their terms) and LaTeX (bounds).

    `methods` names further methods to show, beside those that bound every metric.
    """
    data = frame(certificates, labels, top_k, val_losses_nats)
    write_csv(csv, data)
    view = shown(data, top_k, methods)
    terms = markdown(shown_terms(data, methods), TERMS_CAPTION)
    write_text(md, f"{markdown(view, caption)}\n{terms}\n{notes(data, methods)}\n")
    write_text(tex, latex(view, caption))


def draw(inputs, spec, outputs):
    """Make a table for the workflow (see `tokenbounds.config.schema.reports.Table`)."""
    certificates = best_of([read_certificate(path) for path in inputs["certificates"]], spec["counts"])
    models = {Path(path).parent.name: read_json(path) for path in inputs.get("models", [])}
    losses = {name: model["provenance"]["final"]["val_loss_nats"] for name, model in models.items()}
    options = {key: spec[key] for key in ("top_k", "caption", "methods")}
    write_table(certificates, spec["labels"], **options, val_losses_nats=losses or None, **outputs)
