"""Complexity: message length plus choices made after seeing the data; and the shares of delta."""

import math

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError

CORPUS_SHARE = 0.001  # of delta: spent on the corpus event; the rest is spent on the draws


def complexity_nats(message_bits, choices_bits=0.0):
    """Compute L, the complexity of a hypothesis in nats (docs/theory.md, section 2).

    ``L = ln 2 (C + 2 log2 C + choices)``: C bits of message, the prefix-free length of C, and the choices
    made outside the message.

    Parameters
    ----------
    message_bits : float
        C >= 2. Fractions are accepted only here, to reproduce published numbers; a certificate needs a whole
        number.
    choices_bits : float
        log2 of the number of alternatives of every choice that is not in the message, summed; >= 0.

    Returns
    -------
    float

    Raises
    ------
    InputError
        C < 2, negative choices, or either not finite.

    Examples
    --------
    >>> round(complexity_nats(1024, choices_bits=5) / math.log(2))  # 1024 + 20 + 5 bits
    1049
    """
    message_bits = checks.real("message_bits", message_bits, 2)
    choices_bits = checks.real("choices_bits", choices_bits, 0)
    return math.log(2) * (message_bits + prefix_bits(message_bits) + choices_bits)


def prefix_bits(message_bits):
    """Compute 2 log2 C, the bits that make a message of C bits self-delimiting.

    The prior weights then sum to at most .645 over whole C >= 2.
    """
    return 2 * math.log2(message_bits)


def complexity_terms(message_bits, grid_sizes, extra_bits=0.0):
    """Itemise the complexity of a certificate, in bits; `total_nats` adds the terms up.

    Parameters
    ----------
    message_bits : int
        C, the whole number of bits of the message; >= 2.
    grid_sizes : dict of str to int
        Number of values of each grid that something was chosen from after seeing the data.
    extra_bits : float or dict of str to float
        Further choices that are not in the message, such as the table row, in bits; >= 0.

    Returns
    -------
    dict of str to float
        ``message``, ``prefix``, ``<grid>_grid`` for each grid, and the extra terms.

    Raises
    ------
    InputError
        C fractional or < 2; an extra term negative, not finite, or named like another term.

    Examples
    --------
    >>> complexity_terms(1024, {"alpha": 8}, {"table row": 2.0})
    {'message': 1024.0, 'prefix': 20.0, 'alpha_grid': 3.0, 'table row': 2.0}
    """
    message_bits = checks.integer("message_bits", message_bits, 2)
    terms = {"message": float(message_bits), "prefix": prefix_bits(message_bits)} | grid_terms(grid_sizes)
    extra = extra_bits if isinstance(extra_bits, dict) else {"extra": extra_bits}
    for name, bits in extra.items():
        if name in terms:
            raise InputError(f"extra_bits names {name!r}, which is a term already; expected another name")
        terms[name] = checks.real(f"extra_bits {name!r}", bits, 0)
    return terms


def grid_terms(grid_sizes):
    """Compute log2 of each grid's size, in bits, under the name ``<grid>_grid``."""
    return {f"{name}_grid": math.log2(size) for name, size in grid_sizes.items()}


def total_nats(terms):
    """Add up the complexity terms `terms`, in bits: L in nats.

    Examples
    --------
    >>> total_nats({"message": 2.0, "prefix": 2.0}) == complexity_nats(2)
    True
    """
    return math.log(2) * math.fsum(terms.values())


def split_delta(delta, candidates=1):
    """Split `delta` for a certificate: .001 for the corpus, .999 for the draws.

    The shares do not depend on n and m, so that m may itself be random.

    Parameters
    ----------
    delta : float
        Failure probability in (0, 1).
    candidates : int
        Divides the draws' share: the reported result may then be picked after looking at that many results of
        the same kind (table rows, redraws), without a pilot.

    Returns
    -------
    delta1, delta2 : float

    Examples
    --------
    >>> delta1, delta2 = split_delta(0.05)
    >>> round(delta1, 6), round(delta2, 6)
    (5e-05, 0.04995)
    """
    delta = checks.open_unit("delta", delta)
    return CORPUS_SHARE * delta, (1 - CORPUS_SHARE) * delta / checks.integer("candidates", candidates, 1)


def attempts_share(attempt):
    """Compute k (k + 1), by which the k-th of an open number of attempts divides the draws' share of delta.

    The shares ``delta2 / (k (k + 1))`` of all k = 1, 2, ... add up to delta2: with probability 1 - delta2 all
    attempts hold at once, so that one may stop after any of them and report any (docs/theory.md, section 10).

    Parameters
    ----------
    attempt : int
        k >= 1, the number of the attempt in the order in which they were made.

    Returns
    -------
    int

    Examples
    --------
    >>> [attempts_share(k) for k in (1, 2, 3)]
    [2, 6, 12]
    >>> round(sum(1 / attempts_share(k) for k in range(1, 10_000)), 3)
    1.0
    """
    attempt = checks.integer("attempt", attempt, 1)
    return attempt * (attempt + 1)


def candidates_of(settings):
    """Count what divides the draws' share of delta under a `bounds` section of the configuration.

    Its `candidates` times, with `attempt: k`, the share of the k-th attempt.

    Examples
    --------
    >>> candidates_of({"candidates": 3}), candidates_of({"candidates": 3, "attempt": 2})
    (3, 18)
    """
    attempt = settings.get("attempt")
    return settings["candidates"] * (1 if attempt is None else attempts_share(attempt))


def split_delta_paper(delta, m, n):
    """Split `delta` as the paper does (appendix A.2): ``delta n / (n + m)`` and ``delta m / (n + m)``.

    Returns
    -------
    delta1, delta2 : float

    Examples
    --------
    >>> delta1, delta2 = split_delta_paper(0.05, m=900, n=100)
    >>> round(delta1, 6), round(delta2, 6)
    (0.005, 0.045)
    """
    delta = checks.open_unit("delta", delta)
    return delta * n / (n + m), delta * m / (n + m)
