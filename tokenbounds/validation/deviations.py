"""Measure the effect of each departure from the published code on a finished run (`make deviations`).

The variants are computed for comparison only. Except for the first, none of them is a bound on anything that
the paper defines.
"""

import argparse
import csv
import math
from functools import partial
from pathlib import Path

import numpy as np

from tokenbounds.bounds import Grids, azuma_bpd
from tokenbounds.certificates.files import read_certificate
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import model_of, read_message
from tokenbounds.corpus.contexts import Item, token_items
from tokenbounds.corpus.sampling import context_of
from tokenbounds.corpus.store import TokenStore
from tokenbounds.io.files import atomic_path
from tokenbounds.scoring.draws import message_draws
from tokenbounds.scoring.score import score_items


def leaking_items(store, positions, rule, start):
    """Make items whose context is not cut at the last EOT: `start` finds its beginning in the last tokens."""
    for draw, position in enumerate(positions.tolist()):
        begin = max(0, position - rule.length)
        tokens = store.tokens(begin, position + 1).astype(np.int64)
        ids = tokens[:-1][start(tokens[:-1], store.eot_id) :]
        ids = ids if ids.size else np.array([rule.start_id])
        length = np.array([ids.size], dtype=np.int32)
        yield Item(ids, ids.size - 1, tokens[-1:], np.array([position]), length, 0, draw, ids.size)


def whole_window(tokens, eot_id):
    """Cut nothing: the context leaks."""
    return 0


def after_first_eot(tokens, eot_id):
    """Cut at the first EOT of the window: documents between it and the token leak."""
    ends = np.flatnonzero(tokens == eot_id)
    return ends[0] + 1 if ends.size else 0


def log2_q(model, items, arithmetic):
    """Score items with one target each; shape (n,)."""
    scores = score_items(model, items, arithmetic=arithmetic, progress=True)
    return np.concatenate([score[0] for score in scores])


def measure(run, name):
    """Compute the paper's formula for one certificate of a run: yields (variant, smoothed risk, bound)."""
    saved = read_certificate(run / "bounds" / f"{name}.json")
    path, context = run / saved["hypothesis"]["message"]["path"], context_of(saved["sampling"])
    message = read_message(path)
    store = TokenStore((run / saved["corpus"]["index"]["path"]).parent)
    draws, _ = message_draws(path, store, context, saved["n"], saved["sampling"]["beacon"])
    positions, rule, model = draws["position"].to_numpy(), context_rule(message, context), model_of(message)
    score = partial(log2_q, model, arithmetic=message.config["contexts"]["arithmetic"])
    grids = Grids(alpha=tuple(saved["settings"]["alpha"]))
    bits, m = saved["hypothesis"]["message_bits"], saved["m"]

    def formula(scores, message_bits=bits, extra_bits=0.0):
        options = {"delta": saved["delta"], "grids": grids, "extra_bits": extra_bits}
        bound = azuma_bpd(scores, saved["vocab_size"], message_bits, m, **options)
        return bound.empirical_risk, bound.value

    ours = score(list(token_items(store, positions, rule)))
    yield "ours", *formula(ours)
    leaks = {
        "context not cut at all": whole_window,
        "context cut at the first EOT of the window": after_first_eot,
    }
    for variant, start in leaks.items():
        yield variant, *formula(score(list(leaking_items(store, positions, rule, start))))
    before = token_items(store, np.maximum(positions - 1, 0), rule)
    yield "the token before the drawn one", *formula(score(list(before)))
    size = len(grids.alpha)
    variant = f"grid of {size} priced {size} bits at each value, accumulated"
    yield variant, *formula(ours, extra_bits=size * size - math.log2(size))
    yield "C(h) forgotten (no complexity term beyond 2 bits)", *formula(ours, message_bits=2)


def main(arguments=None):
    """Measure and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("results/quickstart"))
    parser.add_argument("--certificate", default="gpt-large.kmeans25.python.token")
    parser.add_argument("--output", type=Path, default=Path("docs/deviations/effects.csv"))
    options = parser.parse_args(arguments)
    rows = list(measure(options.run, options.certificate))
    lines = [
        [variant, f"{risk:.4f}", f"{bound:.4f}", f"{bound - rows[0][2]:+.4f}"]
        for variant, risk, bound in rows
    ]
    with atomic_path(options.output) as path, open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["variant", "risk_bits", "azuma_bits", "azuma_minus_ours_bits"])
        writer.writerows(lines)
    for variant, risk, bound, difference in lines:
        print(f"{variant:60} risk {risk}  bound {bound}  {difference}")


if __name__ == "__main__":
    main()
