"""Measure on a finished run what each departure from the published code changes: `make deviations` writes docs/deviations/effects.csv.

The variants are computed for comparison only. Except for the first, none of them is a bound on anything that the paper defines.
"""

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from tokenbounds import bounds, certificate
from tokenbounds.corpus import TokenStore, read_positions
from tokenbounds.files import atomic_path
from tokenbounds.hypothesis import context_rule, model_of, read_message
from tokenbounds.scoring import Item, score_items, token_items

BATCH_TOKENS = 8192


def leaking_items(store, positions, rule, start):
    """Items whose context is not cut at the last EOT: `start` says where in the last tokens it begins."""
    for draw, position in enumerate(positions.tolist()):
        begin = max(0, position - rule.length)
        tokens = store.tokens(begin, position + 1).astype(np.int64)
        ids = tokens[:-1][start(tokens[:-1], store.eot_id) :]
        ids = ids if ids.size else np.array([rule.start_id])
        yield Item(ids, ids.size - 1, tokens[-1:], np.array([position]), np.array([ids.size], dtype=np.int32), 0, draw)


def whole_window(tokens, eot_id):
    """The context leaks: nothing is cut."""
    return 0


def after_first_eot(tokens, eot_id):
    """Cut at the first EOT of the window: documents between it and the token leak."""
    found = np.flatnonzero(tokens == eot_id)
    return found[0] + 1 if found.size else 0


def log2_q(model, items):
    """Scores of items with one target each, shape (n,)."""
    return np.concatenate([result[0] for result in score_items(model, items, batch_tokens=BATCH_TOKENS, progress=True)])


def measure(run, name):
    """(variant, smoothed risk, bound) of the paper's formula for one certificate of a run."""
    saved = certificate.read(run / "bounds" / f"{name}.json")
    message = read_message(run / saved["hypothesis"]["message"]["path"])
    store = TokenStore((run / saved["corpus"]["index"]["path"]).parent)
    positions = read_positions(run / saved["sampling"]["draws"]["path"], store)["position"].to_numpy()
    rule = context_rule(message, saved["sampling"]["name"])
    model = model_of(message)
    grids = bounds.Grids(alpha=tuple(saved["settings"]["alpha"]))
    bits, m = saved["hypothesis"]["message_bits"], saved["m"]

    def formula(scores, message_bits=bits, extra_bits=0.0):
        bound = bounds.azuma_bpd(scores, saved["vocab_size"], message_bits, m, delta=saved["delta"], grids=grids, extra_bits=extra_bits)
        return bound.empirical_risk, bound.value

    ours = log2_q(model, list(token_items(store, positions, rule)))
    yield "ours", *formula(ours)
    for variant, start in (("context not cut at all", whole_window), ("context cut at the first EOT of the window", after_first_eot)):
        yield variant, *formula(log2_q(model, list(leaking_items(store, positions, rule, start))))
    yield "the token before the drawn one", *formula(log2_q(model, list(token_items(store, np.maximum(positions - 1, 0), rule))))
    size = len(grids.alpha)
    yield f"grid of {size} priced {size} bits at each value, accumulated", *formula(ours, extra_bits=size * size - math.log2(size))
    yield "C(h) forgotten (no complexity term beyond 2 bits)", *formula(ours, message_bits=2)


def main(arguments=None):
    """Measure and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("results/quickstart"))
    parser.add_argument("--certificate", default="gpt-large.kmeans25.python.token")
    parser.add_argument("--output", type=Path, default=Path("docs/deviations/effects.csv"))
    options = parser.parse_args(arguments)
    rows = list(measure(options.run, options.certificate))
    with atomic_path(options.output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["variant", "risk_bits", "azuma_bits", "azuma_minus_ours_bits"])
        writer.writerows([variant, f"{risk:.4f}", f"{bound:.4f}", f"{bound - rows[0][2]:+.4f}"] for variant, risk, bound in rows)
    for variant, risk, bound in rows:
        print(f"{variant:60} risk {risk:.4f}  bound {bound:.4f}  {bound - rows[0][2]:+.4f}")


if __name__ == "__main__":
    main()
