"""All bounds of all metrics from records: pure arithmetic, milliseconds to seconds, no model."""

from dataclasses import replace

import numpy as np

from tokenbounds.bounds import Bpd, Claim, Document, TopK, candidates_of, grids_of
from tokenbounds.bounds.draws import document_means
from tokenbounds.bounds.methods import HEADLINE, METHODS, REFERENCE
from tokenbounds.errors import InputError


def metrics(
    records,
    bits,
    *,
    delta,
    m,
    n,
    vocab_size,
    choices_bits,
    epsilon_nats,
    entropy_epsilon_bits,
    settings,
    mode="token",
    alpha_range=None,
):
    """Compute the bounds on bits per token and on the top-k errors.

    Parameters
    ----------
    records : dict of str to ndarray
        ``log2_q``, ``rank``, ``entropy_bits`` and, with a smoothing head, ``alpha``: shapes (n,), or (n, S)
        for windows. For documents shape (tokens,), and ``tokens_per_draw`` (n,).
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
    epsilon_nats, entropy_epsilon_bits : float
        Largest difference of a smoothed log-probability, and of an entropy, between two scorings (see
        `tokenbounds.bounds.Bpd`). Top-k errors have none: near-ties are recorded as errors.
    settings : dict
        The `bounds` section of the configuration, with its defaults filled in; `candidates` and `attempt`
        divide the draws' share of delta.
    mode : str
        "token", "window" or "document".
    alpha_range : (float, float), optional
        Declared clip of the smoothing head, with `records["alpha"]`.

    Returns
    -------
    dict
        Per metric (``bpd``, ``top1``, ...): ``empirical_risk`` of all draws (unsmoothed for BPD),
        ``random_guess``, ``saving_percent``, and per method the bound as `tokenbounds.bounds.Bound.as_dict`
        gives it, with the method's assumption and what M is.
    """
    drawn = len(records["tokens_per_draw"]) if mode == "document" else records["log2_q"].shape[0]
    if drawn != n:
        raise InputError(f"{drawn} draws in the records; expected n = {n}")
    claim = Claim(bits, m, delta, choices_bits, candidates_of(settings), grids_of(settings))
    top_k = [k for k in settings["top_k"] if k < vocab_size]  # no prediction can miss the other ones
    if mode == "document":
        return _document_metrics(records, vocab_size, top_k, claim, epsilon_nats)
    head = {} if alpha_range is None else {"alphas": records["alpha"], "alpha_range": alpha_range}
    errors = {"epsilon_nats": epsilon_nats, "entropy_epsilon_bits": entropy_epsilon_bits}
    losses = Bpd(records["log2_q"], vocab_size, records["entropy_bits"], **head, **errors)
    entries = {"bpd": _entry(-float(records["log2_q"].mean()), [losses], claim)}
    for k in top_k:
        losses = TopK(records["rank"], vocab_size, k)
        entries[losses.metric] = _entry(float(losses.errors.mean()), [losses], claim)
    return entries


def _document_metrics(records, vocab_size, top_k, claim, epsilon_nats):
    """Compute the metrics with documents as data points and a constant smoothing (docs/theory.md, section 6).

    The smoothing of the bits per token is the one with the least bound on these same draws: a complexity
    term, and so many candidates.
    """
    log2_q, counts, alphas = records["log2_q"], records["tokens_per_draw"], claim.grids.alpha
    terms = claim.extra_bits | {"alpha_grid": float(np.log2(len(alphas)))}
    chosen = replace(claim, extra_bits=terms, candidates=claim.candidates * len(alphas))
    # Under alpha = 1 every loss is log2 V: nothing to bound, and never the least.
    below = [alpha for alpha in alphas if alpha != 1]
    options = [Document.bpd(log2_q, counts, vocab_size, alpha, epsilon_nats) for alpha in below]
    if not options:
        expected = "at least one smoothing below 1 for documents"
        raise InputError(f"bounds.alpha holds only 1; expected {expected}")
    entries = {"bpd": _entry(float(document_means(-log2_q, counts).mean()), options, chosen)}
    for k in top_k:
        losses = Document.topk(records["rank"], counts, vocab_size, k)
        entries[losses.metric] = _entry(float(losses.values.mean()), [losses], claim)
    return entries


def _entry(empirical_risk, options, claim):
    """Compute one metric of a certificate: by each suitable method the least bound over the options."""
    bounds = {}
    for method in METHODS.values():
        if isinstance(options[0], method.can_bound):
            claimed = claim if method.certifies else replace(claim, candidates=1)
            results = [method.bound(losses, claimed) for losses in options]
            bounds[method.name] = min(results, key=lambda bound: bound.value)
    saving = 1 - bounds[HEADLINE.name].value / bounds[REFERENCE.name].value
    return {
        "empirical_risk": empirical_risk,
        "random_guess": options[0].random_guess,
        "saving_percent": 100 * saving,
        "bounds": {key: bound.as_dict() | _assumed(METHODS[key]) for key, bound in bounds.items()},
    }


def _assumed(method):
    return {"assumes": method.assumption}
