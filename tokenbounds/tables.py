"""Certificates to tables: everything in the csv, what the paper shows in markdown and LaTeX."""

import math

import pandas as pd

from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, write_text

TERMS = {"risk": "empirical_risk", "complexity": "complexity_term", "draws": "subsample_term", "slack": "slack_term"}
NOTES = (
    "azuma (the paper's formula) reproduces the paper and certifies nothing; azuma, certified holds for m fixed beforehand; betting for "
    "any m. Each bound holds by itself with the probability that its certificate states."
)
TERMS_CAPTION = "What the BPD bounds are the sum of, in bits. (cap): the largest possible loss, which is less than the sum."
SHOWN = {"risk": "risk", "azuma": "azuma (the paper's formula)", "azuma_certified": "azuma, certified", "betting": "betting"}


def best_of(certificates, counts):
    """Of each run of `counts` consecutive certificates the one with the least betting bound on bits per token.

    They were made knowing that one of so many is picked (`bounds.candidates`); `InputError` where one was not.
    """
    chosen, start = [], 0
    for count in counts:
        group = certificates[start : start + count]
        for certificate in group:
            if certificate["settings"]["candidates"] < count:
                known = certificate["settings"]["candidates"]
                raise InputError(
                    f"{certificate['name']}: a bound for one of {known} candidates; expected one for {count}, of which the best is shown"
                )
        chosen.append(min(group, key=lambda found: found["metrics"]["bpd"]["bounds"]["betting"]["value"]))
        start += count
    return chosen


def frame(certificates, labels, top_k, val_losses_nats=None):
    """One line per certificate with every number of the table, unrounded.

    Parameters
    ----------
    certificates : list of dict
        As `tokenbounds.certificate.read` returns them.
    labels : list of str
        What the table calls each.
    top_k : list of int
        Which top-k errors to include.
    val_losses_nats : dict of str to float, optional
        Validation loss of each model in nats per token, before it was quantized.

    Returns
    -------
    DataFrame
        Columns label, certificate, message_bytes, m_tokens, n, with `val_losses_nats` val_loss_nats (ln V for the random guess), then per
        metric (``bpd``, ``top1``, ...) ``{metric}_risk``, for every method of the certificate ``{metric}_{method}`` (the bound) and
        ``{metric}_{method}_{term}`` for the terms it is the sum of, and ``{metric}_saving_percent`` (betting below the paper's formula).
        Errors are fractions, not percent. The last line is the random guess.
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
    guesses = {(certificate["vocab_size"], certificate["corpus"]["name"]) for certificate in certificates}
    for vocab_size, corpus in sorted(guesses):
        certificate = next(c for c in certificates if (c["vocab_size"], c["corpus"]["name"]) == (vocab_size, corpus))
        line = {"label": "Random guess" if len(guesses) == 1 else f"Random guess ({corpus})"}
        for metric in metrics:
            entry = certificate["metrics"][metric]
            line |= {f"{metric}_{column}": entry["random_guess"] for column in ("risk", *entry["bounds"])}
        if val_losses_nats is not None:
            line["val_loss_nats"] = math.log(vocab_size)
        lines.append(line)
    return pd.DataFrame(lines).astype(dict.fromkeys(("message_bytes", "m_tokens", "n"), "Int64"))  # whole, also beside the guess


def flag(certificate):
    """What a label says of a published model that failed the sanity gate."""
    gate = certificate.get("gate")
    return f" [suspect: {gate['bits_per_token']:.1f} bits on {gate['documents']} documents]" if gate and gate["bad"] else ""


def shown(data, top_k):
    """The bounds as a reader sees them: per model one line for the risk and one per method; errors in percent."""
    columns = {"BPD": ("bpd", 1, "{:.2f}"), **{f"top-{k} [%]": (f"top{k}", 100, "{:.2f}") for k in top_k}}
    rows = []
    for line in data.to_dict("records"):
        guess = pd.isna(line["message_bytes"])
        for method, title in {"risk": "random guess"}.items() if guess else SHOWN.items():
            first = title in ("risk", "random guess")
            rows.append(
                {
                    "model": line["label"] if first else "",
                    "C(h) [kB]": f"{line['message_bytes'] / 1000:,.1f}" if first and not guess else "",
                    "": "" if guess else title,
                    **{name: form.format(scale * line[f"{metric}_{method}"]) for name, (metric, scale, form) in columns.items()},
                    "BPD saving": f"{line['bpd_saving_percent']:.0f}%" if method == "betting" else "",
                    **({"validation loss [nats]": f"{line['val_loss_nats']:.3f}" if first else ""} if "val_loss_nats" in line else {}),
                }
            )
    return pd.DataFrame(rows)


def shown_terms(data):
    """What each BPD bound is the sum of, in bits."""
    rows = [
        {
            "model": line["label"] if method == "azuma" else "",
            "": SHOWN[method],
            "bound": f"{line[f'bpd_{method}']:.3f}{' (cap)' if _capped(line, f'bpd_{method}') else ''}",
            **{f"{'=' if term == 'risk' else '+'} {term}": f"{line[f'bpd_{method}_{term}']:.3f}" for term in TERMS},
        }
        for line in data[data["message_bytes"].notna()].to_dict("records")
        for method in SHOWN
        if method != "risk"
    ]
    return pd.DataFrame(rows)


def _capped(line, bound):
    """Whether a bound is the largest possible loss (plus slack) instead of the larger sum of its terms."""
    return line[bound] < sum(line[f"{bound}_{term}"] for term in TERMS) - 1e-9


def write_table(certificates, labels, top_k, caption, *, csv, md, tex, val_losses_nats=None):
    """Write a table as csv (every number), markdown (bounds, and what they are the sum of) and LaTeX (bounds)."""
    data = frame(certificates, labels, top_k, val_losses_nats)
    with atomic_path(csv) as temporary:
        data.to_csv(temporary, index=False)
    view = shown(data, top_k)
    write_text(md, markdown(view, caption) + "\n" + markdown(shown_terms(data), TERMS_CAPTION) + f"\n{NOTES}\n")
    write_text(tex, latex(view, caption))


def markdown(view, caption):
    """A markdown table, columns aligned so that it also reads well in a terminal."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in (list(view.columns), *view.to_numpy().tolist())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row):
        return (
            "| "
            + " | ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            + " |"
        )

    rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([*([f"{caption}", ""] if caption else []), line(rows[0]), rule, *map(line, rows[1:])]) + "\n"


LATEX = str.maketrans(
    {character: rf"\{character}" for character in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def latex(view, caption):
    """A LaTeX table (booktabs)."""
    body = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in view.to_numpy().tolist()]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption.translate(LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * (view.shape[1] - 1)}}}",
            r"\toprule",
            " & ".join(name.translate(LATEX) for name in view.columns) + r" \\",
            r"\midrule",
            *body[:-1],
            r"\midrule",
            body[-1],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
