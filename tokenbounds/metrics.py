"""Every bound of every metric from records: pure arithmetic, milliseconds to seconds, no model."""

import dataclasses

import numpy as np

from tokenbounds import bounds
from tokenbounds.errors import InputError

ASSUMES = {
    "azuma": "nothing is certified: the paper's formula, its smoothing chosen on the draws that estimate the risk",
    "azuma_certified": "m fixed beforehand",
    "azuma_rigorous": "m fixed beforehand",
    "betting": "nothing more",
}


def metrics(records, bits, *, delta, m, n, vocab_size, choices_bits, epsilon_nats, settings, mode="token", alpha_range=None):
    """Bounds on bits per token and on the top-k errors.

    Parameters
    ----------
    records : dict of str to ndarray
        ``log2_q``, ``rank``, ``entropy_bits`` and, with a smoothing head, ``alpha``: shapes (n,), or (n, S) for windows. For documents
        shape (tokens,), and ``tokens_per_draw`` (n,).
    bits : int
        C(h).
    delta : float
        Failure probability of each bound.
    m, n : int
        Tokens (documents) in the corpus, and draws.
    vocab_size : int
        V.
    choices_bits : dict of str to float
        Choices that are not in the message, in bits, itemised.
    epsilon_nats : float
        Largest difference of a log-probability between two scorings.
    settings : dict
        The `bounds` section of the configuration, with its defaults filled in.
    mode : str
        "token", "window" or "document".
    alpha_range : (float, float), optional
        Declared clip of the smoothing head, with `records["alpha"]`.

    Returns
    -------
    dict
        Per metric (``bpd``, ``top1``, ...): ``empirical_risk`` of all draws (unsmoothed for BPD), ``random_guess``, and per method the
        bound as `tokenbounds.bounds.Bound.as_dict` gives it.
    """
    drawn = len(records["tokens_per_draw"]) if mode == "document" else records["log2_q"].shape[0]
    if drawn != n:
        raise InputError(f"{drawn} draws in the records; expected n = {n}")
    common = {"delta": delta, "extra_bits": choices_bits}
    certified = common | {"candidates": settings["candidates"]}
    slack = {"numeric_slack_bits": bounds.numeric_slack_bits(epsilon_nats)}
    compute = _document_metrics if mode == "document" else _token_metrics
    top_k = [k for k in settings["top_k"] if k < vocab_size]  # no prediction can miss the other ones
    return compute(records, bits, m, vocab_size, grids_of(settings), top_k, common, certified, slack, alpha_range)


def _token_metrics(records, bits, m, vocab_size, grids, top_k, common, certified, slack, alpha_range):
    log2_q, ranks = records["log2_q"], records["rank"]
    arguments = (log2_q, vocab_size, bits, m)
    head = {} if alpha_range is None else {"alphas": records["alpha"], "alpha_range": alpha_range}
    bpd = certified | slack | {"grids": grids}
    found = {
        "bpd": entry(
            -float(log2_q.mean()),
            bounds.azuma_bpd(*arguments, grids=grids, **head, **common),
            # Hoeffding's inequality needs a constant interval: this one leaves the head aside.
            bounds.azuma_certified_bpd(*arguments, **bpd),
            bounds.azuma_rigorous_bpd(*arguments, **head, **bpd),
            bounds.betting_bpd(*arguments, entropies=records["entropy_bits"], **head, **bpd),
        )
    }
    for k in top_k:
        arguments = (ranks, k, vocab_size, bits, m)
        found[f"top{k}"] = entry(
            float((ranks >= k).mean()),
            bounds.azuma_topk(*arguments, **common),
            bounds.azuma_certified_topk(*arguments, **certified),
            bounds.betting_topk(*arguments, grids=grids, **certified),
        )
    return found


def _document_metrics(records, bits, m, vocab_size, grids, top_k, common, certified, slack, alpha_range):
    """A document is a data point, its loss the mean over its tokens (docs/theory.md, section 6); the smoothing is constant."""
    counts = records["tokens_per_draw"]
    starts = np.cumsum(counts) - counts

    def means(losses):
        return np.add.reduceat(losses, starts) / counts

    def best(bound, options, **more):
        """The least over the grid of alpha: paid for in the complexity, and by the draws where the bound is a certificate."""
        options = options | more | {"extra_bits": options["extra_bits"] | {"alpha_grid": float(np.log2(len(grids.alpha)))}}
        if "candidates" in options:
            options["candidates"] *= len(grids.alpha)
        results = []
        for alpha in grids.alpha:
            if alpha == 1:  # every loss is log2 V: nothing to bound, and never the least
                continue
            losses = means(bounds.smoothed_losses(records["log2_q"], alpha, vocab_size))
            result = bound(losses, *bounds.bpd_interval(alpha, vocab_size), bits, m, **options)
            results.append(_named(result, "bpd", bounds.random_guess_bpd(vocab_size), {"alpha": alpha}))
        if not results:
            raise InputError("bounds.alpha holds only 1; expected at least one smoothing below 1 for documents")
        return min(results, key=lambda result: result.value)

    risk = float(means(-records["log2_q"]).mean())
    found = {
        "bpd": entry(
            risk,
            best(bounds.azuma_losses, common),
            best(bounds.azuma_certified_losses, certified, **slack),
            best(bounds.betting_losses, certified, **slack, grids=grids),
        )
    }
    for k in top_k:
        errors = means((records["rank"] >= k).astype(np.float64))
        guess = bounds.random_guess_topk(vocab_size, k)
        results = (
            bounds.azuma_losses(errors, 0.0, 1.0, bits, m, **common),
            bounds.azuma_certified_losses(errors, 0.0, 1.0, bits, m, **certified),
            bounds.betting_losses(errors, 0.0, 1.0, bits, m, grids=grids, **certified),
        )
        found[f"top{k}"] = entry(float(errors.mean()), *(_named(result, f"top{k}", guess, {}) for result in results))
    return found


def _named(bound, metric, random_guess, choices):
    return dataclasses.replace(bound, metric=metric, random_guess=random_guess, choices=bound.choices | choices)


def grids_of(settings):
    """The grids that a `bounds` section describes."""
    lists = {name: tuple(settings[name]) for name in ("alpha", "beta1", "beta2", "width", "lambda_exponents")}
    return bounds.Grids(**lists, **{name: bounds.logit_spaced(**settings[name]) for name in ("a", "b")})


def entry(empirical_risk, *found):
    """One metric of a certificate."""
    values = {bound.method: bound.value for bound in found}
    return {
        "empirical_risk": empirical_risk,
        "random_guess": found[0].random_guess,
        "saving_percent": 100 * (1 - values["betting"] / values["azuma"]),
        "bounds": {bound.method: bound.as_dict() | {"assumes": ASSUMES[bound.method]} for bound in found},
    }
