"""Bounds on bits per token as functions of arrays: thin calls of the methods, without the pipeline."""

from tokenbounds.bounds.azuma_bounds import AzumaCertified, AzumaFormula, AzumaRigorous
from tokenbounds.bounds.betting_bounds import Betting
from tokenbounds.bounds.draws import Bpd
from tokenbounds.bounds.freedman_bounds import Freedman
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.interface import Claim


def azuma_bpd(
    log2_q,
    vocab_size,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
):
    """Compute the paper's formula on bits per token: the best weight of ``grids.alpha``, or a head.

    It reproduces the paper's numbers and is not a certificate: the weight is chosen on the draws that
    estimate the risk, and with a head the statement is false in general (docs/theory.md, section 3). Never
    capped. Parameters as for `betting_bpd`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> log2_q = [-1.0, -2.0, -3.0, -10.0] * 250
    >>> bound = azuma_bpd(log2_q, vocab_size=32_000, message_bits=8 * 10**6, m=10**9)
    >>> round(bound.value, 3), bound.choices["alpha"]
    (5.808, 0.1)
    """
    claim = Claim(message_bits, m, delta, extra_bits, grids=grids or Grids())
    return AzumaFormula().bound(Bpd(log2_q, vocab_size, None, alphas, alpha_range), claim)


def azuma_certified_bpd(
    log2_q,
    vocab_size,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    extra_bits=0.0,
    epsilon_nats=0.0,
    candidates=1,
):
    """Compute the Azuma bound on bits per token, a constant weight chosen on the pilot, from the other draws.

    Valid for any m, because the interval is constant and lambda is of a grid that does not depend on m;
    delta1 = .001 delta, delta2 = .999 delta. Parameters as for `betting_bpd`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> log2_q = [-1.0, -2.0, -3.0, -10.0] * 250
    >>> bound = azuma_certified_bpd(log2_q, vocab_size=32_000, message_bits=8 * 10**6, m=10**9)
    >>> round(bound.value, 3), bound.n_pilot
    (5.847, 100)
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    losses = Bpd(log2_q, vocab_size, epsilon_nats=epsilon_nats)
    return AzumaCertified().bound(losses, claim)


def azuma_rigorous_bpd(
    log2_q,
    vocab_size,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
    epsilon_nats=0.0,
    candidates=1,
):
    """Compute the Azuma bound on bits per token that allows the smoothing to vary with the context.

    See `tokenbounds.bounds.azuma_bounds.AzumaRigorous`. Parameters as for `betting_bpd`.

    Returns
    -------
    Bound

    Examples
    --------
    >>> log2_q, alphas = [-1.0, -2.0, -3.0, -10.0] * 250, [0.02, 0.05, 0.05, 0.4] * 250
    >>> head = {"alphas": alphas, "alpha_range": (0.01, 0.5)}
    >>> round(azuma_rigorous_bpd(log2_q, vocab_size=32_000, message_bits=8 * 10**6, m=10**9, **head).value, 3)
    5.52
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    losses = Bpd(log2_q, vocab_size, None, alphas, alpha_range, epsilon_nats)
    return AzumaRigorous().bound(losses, claim)


def freedman_bpd(
    log2_q,
    entropies,
    vocab_size,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
    epsilon_nats=0.0,
    entropy_epsilon_bits=0.0,
    candidates=1,
):
    """Compute the bound of Finzi et al. (2025) on bits per token, chosen on a pilot, from the other draws.

    For comparison with `betting_bpd` (docs/theory.md, section 11); parameters as there, the entropies
    required.

    Returns
    -------
    Bound

    Examples
    --------
    >>> log2_q, entropies = [-1.0, -2.0, -3.0, -10.0] * 250, [1.5, 2.0, 2.5, 6.0] * 250
    >>> bound = freedman_bpd(log2_q, entropies, vocab_size=32_000, message_bits=8 * 10**6, m=10**9)
    >>> round(bound.value, 3), round(bound.choices["freedman_fraction"], 3)
    (4.898, 1.0)
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    head = alphas, alpha_range, epsilon_nats, entropy_epsilon_bits
    return Freedman().bound(Bpd(log2_q, vocab_size, entropies, *head), claim)


def betting_bpd(
    log2_q,
    vocab_size,
    message_bits,
    m,
    *,
    entropies=None,
    delta=0.05,
    grids=None,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
    epsilon_nats=0.0,
    entropy_epsilon_bits=0.0,
    candidates=1,
):
    """Compute the betting bound on bits per token: Theorem C, chosen on a pilot, from the other draws.

    See docs/theory.md, sections 4 and 5.

    Parameters
    ----------
    log2_q : array_like, (n,) or (n, S)
        log2 of the model's probability of each scored token, <= 0 (up to 1e-9 of rounding), in draw order;
        rows are windows of S tokens.
    vocab_size : int
        V >= 2.
    message_bits, m, delta, grids, extra_bits, candidates
        As for `betting_losses`; for windows m is ``S floor(M / S)`` of a corpus of M tokens.
    entropies : array_like, like log2_q, optional
        Entropy of q given each context, in bits, in [0, log2 V]; centres the bets. None: no centring, and no
        complexity term for it.
    alphas : array_like, like log2_q, optional
        Weights of a smoothing head at each token; None chooses one constant weight from ``grids.alpha``.
    alpha_range : (float, float), optional
        Declared clip of the head, required with `alphas`: every weight lies in it.
    epsilon_nats : float
        By how much the natural logarithms of the smoothed probabilities and of the weights may be off, either
        way; every token then counts with the worst of the possible values (docs/theory.md, section 13).
    entropy_epsilon_bits : float
        By how much the entropies may be off, likewise.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        As for `betting_losses`; also for log2_q > 0, entropies or weights outside their range, and shapes
        that differ.

    Examples
    --------
    >>> log2_q, entropies = [-1.0, -2.0, -3.0, -10.0] * 250, [1.5, 2.0, 2.5, 6.0] * 250
    >>> bound = betting_bpd(log2_q, vocab_size=32_000, message_bits=8 * 10**6, m=10**9, entropies=entropies)
    >>> round(bound.value, 3), bound.random_guess > bound.value, bound.choices["centre_linear"]
    (4.748, True, 1.0)
    """
    claim = Claim(message_bits, m, delta, extra_bits, candidates, grids or Grids())
    head = alphas, alpha_range, epsilon_nats, entropy_epsilon_bits
    losses = Bpd(log2_q, vocab_size, entropies, *head)
    return Betting().bound(losses, claim)
