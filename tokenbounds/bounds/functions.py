"""Bounds on any losses and on top-k errors as functions: thin calls of the methods, without the pipeline."""

import math

from tokenbounds.bounds import checks
from tokenbounds.bounds.azuma_bounds import AzumaCertified, AzumaFormula, azuma_terms
from tokenbounds.bounds.betting_bounds import Betting, product_terms
from tokenbounds.bounds.complexity import grid_terms, split_delta, split_delta_paper, total_nats
from tokenbounds.bounds.draws import Bounded, TopK
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.interface import Claim


def azuma(empirical_risk, interval, complexity_nats, m, n, delta=0.05):
    """Compute the paper's bound (Theorem 1 with subsampling, equations 2 and 5) as a number.

    ``risk + interval sqrt((L + ln 1/delta1) / 2m) + interval sqrt(ln(1/delta2) / 2n)``, delta split as in
    appendix A.2. For an interval that is the rms of varying ones this is a formula, not a theorem: see
    `azuma_rigorous_bpd`.

    Parameters
    ----------
    empirical_risk : float
        Mean loss of the n draws.
    interval : float
        Length of the loss interval, >= 0.
    complexity_nats : float
        L >= 0.
    m, n : int
        Tokens in the corpus, and draws.
    delta : float
        Failure probability in (0, 1).

    Returns
    -------
    float

    Examples
    --------
    >>> from tokenbounds.bounds import complexity_nats
    >>> round(azuma(3.2, 12.0, complexity_nats(8 * 10**6), m=10**9, n=10_000), 3)
    3.979
    """
    m, n = checks.integer("m", m, 1), checks.integer("n", n, 1)
    checks.population(m, n, 1)
    interval = checks.real("interval", interval, 0)
    complexity_nats = checks.real("complexity_nats", complexity_nats, 0)
    terms = azuma_terms(interval, complexity_nats, m, n, *split_delta_paper(delta, m, n))
    return checks.real("empirical_risk", empirical_risk) + math.fsum(terms)


def azuma_losses(losses, low, high, message_bits, m, *, delta=0.05, extra_bits=0.0):
    """Compute the paper's formula on arbitrary losses in [low, high], such as one mean loss per document.

    Nothing is chosen and the interval is constant, so this is a certificate for a fixed m. Never capped.
    Parameters as for `betting_losses`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> round(azuma_losses([0.2, 0.4, 0.6] * 100, 0, 1, message_bits=800, m=10**6).value, 3)
    0.488
    """
    claim = Claim(message_bits, m, delta, extra_bits)
    return AzumaFormula().bound(Bounded(losses, low, high), claim)


def azuma_certified_losses(
    losses,
    low,
    high,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    extra_bits=0.0,
    epsilon=0.0,
    candidates=1,
):
    """Compute the Azuma bound on arbitrary losses in [low, high] with our split of delta, from all draws.

    Lambda is chosen from interval and complexity alone, so no pilot is set aside. Parameters as for
    `betting_losses`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> bound = azuma_certified_losses([0.2, 0.4, 0.6] * 100, 0, 1, message_bits=800, m=10**6)
    >>> round(bound.value, 3), bound.n_pilot
    (0.488, 0)
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    return AzumaCertified().bound(Bounded(losses, low, high, epsilon=epsilon), claim)


def azuma_topk(ranks, k, vocab_size, message_bits, m, *, delta=0.05, extra_bits=0.0):
    """Compute the paper's formula on the top-k error, from all draws; never capped.

    Parameters as for `betting_topk`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> ranks = [0, 3, 0, 120] * 250
    >>> round(azuma_topk(ranks, 10, vocab_size=32_000, message_bits=8 * 10**6, m=10**9).value, 3)
    0.341
    """
    claim = Claim(message_bits, m, delta, extra_bits)
    return AzumaFormula().bound(TopK(ranks, vocab_size, k), claim)


def azuma_certified_topk(
    ranks, k, vocab_size, message_bits, m, *, delta=0.05, grids=None, extra_bits=0.0, candidates=1
):
    """Compute the Azuma bound on the top-k error with our split of delta, from all draws.

    Parameters as for `betting_topk`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> ranks = [0, 3, 0, 120] * 250
    >>> round(azuma_certified_topk(ranks, 10, vocab_size=32_000, message_bits=8 * 10**6, m=10**9).value, 3)
    0.341
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    return AzumaCertified().bound(TopK(ranks, vocab_size, k), claim)


def betting(losses, low, high, complexity_nats, m, delta=0.05, *, entropies=None, grids=None):
    """Compute an upper bound on the mean conditional expectation of bounded losses, as a number.

    See `betting_losses` for the full record.

    Parameters
    ----------
    losses : array_like, (n,) or (n, S)
        Losses of the draws, in draw order, in [low, high].
    low, high : float
        Interval of every loss of the corpus, low < high.
    complexity_nats : float
        L of the hypothesis, >= 0. The terms of the grids used here are added inside and are not part of it.
    m : int
        Tokens (or data points) drawn from; at least those drawn, and a multiple of S for windows.
    delta : float
        Failure probability in (0, 1).
    entropies : array_like, optional
        Any function of the context beside each loss, >= 0, to centre the bets; None for no centring.
    grids : Grids, optional
        Values of the free parameters.

    Returns
    -------
    float
        Holds with probability at least 1 - delta; at most `high`.

    Examples
    --------
    >>> losses = [0.1, 0.1, 0.1, 0.9] * 100
    >>> round(betting(losses, 0, 1, complexity_nats=700.0, m=10**6), 3)
    0.361
    """
    grids, drawn = grids or Grids(), Bounded(losses, low, high, entropies)
    m = checks.population(m, *drawn.shape)
    delta1, delta2 = split_delta(delta)
    chosen_nats = total_nats(grid_terms(Betting().grid_sizes(drawn, grids)))
    nats = checks.real("complexity_nats", complexity_nats, 0) + chosen_nats - math.log(delta1)
    _, risk, terms, _ = product_terms(drawn, nats / m, delta2, grids)
    return min(drawn.high, math.fsum((risk, *terms)))


def betting_losses(
    losses,
    low,
    high,
    message_bits,
    m,
    *,
    entropies=None,
    delta=0.05,
    grids=None,
    extra_bits=0.0,
    epsilon=0.0,
    entropy_epsilon=0.0,
    candidates=1,
):
    """Compute the betting bound on arbitrary losses in [low, high], such as the mean loss of each document.

    For documents (docs/theory.md, section 6) `losses` holds one mean loss per drawn document and `m` is the
    number of documents. If the smoothing of those losses was selected from a list on the same draws, add the
    log2 of its length to `extra_bits` and multiply `candidates` by it.

    Parameters
    ----------
    losses, low, high, m, delta, entropies, grids
        As for `betting`.
    message_bits : int
        C, whole bits of the message, >= 2.
    extra_bits : float or dict of str to float
        Choices made after seeing the data that are not in the message and not in `grids`, in bits.
    epsilon, entropy_epsilon : float
        By how much the losses and the entropies may be off, either way, each in its own unit.
    candidates : int
        Number N of results from which this one may be selected after seeing the draws; the draws' share of
        delta becomes delta2 / N. To claim several metrics at once, pass ``delta / number`` instead.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        C fractional or < 2, m smaller than the number drawn, a loss NaN or outside [low, high], fewer than
        two draws, or any other parameter outside its range.

    Examples
    --------
    >>> losses = [0.1, 0.1, 0.1, 0.9] * 100
    >>> bound = betting_losses(losses, 0, 1, message_bits=800, m=10**6, extra_bits={"table row": 3})
    >>> round(bound.value, 3), round(bound.empirical_risk, 3), bound.n_pilot
    (0.36, 0.3, 40)
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    errors = {"epsilon": epsilon, "entropy_epsilon": entropy_epsilon}
    return Betting().bound(Bounded(losses, low, high, entropies, **errors), claim)


def betting_topk(
    ranks,
    k,
    vocab_size,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    extra_bits=0.0,
    candidates=1,
):
    """Compute the betting bound on the top-k error, from the exact limit for 0-1 losses (docs/theory.md, 5).

    Parameters
    ----------
    ranks : array_like, (n,) or (n, S)
        Rank of each scored token, 0 to V - 1, ties counted against the model, in draw order; rows are windows
        of S tokens.
    k : int
        1 <= k <= V - 1.
    vocab_size : int
        V >= 2.
    message_bits, m, delta, grids, extra_bits, candidates
        As for `betting_losses`.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        As for `betting_losses`; also for a rank or k outside its range.

    Examples
    --------
    >>> bound = betting_topk([0, 3, 0, 120] * 250, 10, vocab_size=32_000, message_bits=8 * 10**6, m=10**9)
    >>> round(bound.value, 3), bound.empirical_risk
    (0.322, 0.25)
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    return Betting().bound(TopK(ranks, vocab_size, k), claim)
