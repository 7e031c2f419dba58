"""What a hypothesis and every choice made after seeing the data cost, and how the failure probability is shared."""

import math

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError

CORPUS_SHARE = 0.001  # of delta: spent on the corpus event; the rest is spent on the draws


def complexity_nats(message_bits, choices_bits=0.0):
    """L, the complexity of a hypothesis in nats (docs/theory.md, section 2).

    ``L = ln 2 (C + 2 log2 C + choices)``: C bits of message, the prefix-free length of C, and the choices made outside the message.

    Parameters
    ----------
    message_bits : float
        C >= 2. Fractions are accepted only here, to reproduce published numbers; a certificate needs a whole number.
    choices_bits : float
        log2 of the number of alternatives of every choice that is not in the message, summed; >= 0.

    Returns
    -------
    float

    Raises
    ------
    InputError
        If C < 2, if the choices are negative, or if either is not finite.
    """
    message_bits = checks.real("message_bits", message_bits, 2)
    return math.log(2) * (message_bits + prefix_bits(message_bits) + checks.real("choices_bits", choices_bits, 0))


def prefix_bits(message_bits):
    """2 log2 C: what makes the message self-delimiting; the prior weights sum to at most .645 over whole C >= 2."""
    return 2 * math.log2(message_bits)


def payments_bits(message_bits, grid_sizes, extra_bits=0.0):
    """Everything that goes into L of a certificate, itemised, in bits; `payments_nats` adds it up.

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

    Raises
    ------
    InputError
        If C is fractional or < 2, or an extra payment is negative, not finite, or named like another payment.
    """
    message_bits = checks.integer("message_bits", message_bits, 2)
    payments = {"message": float(message_bits), "prefix": prefix_bits(message_bits)}
    payments |= grid_payments(grid_sizes)
    extra = extra_bits if isinstance(extra_bits, dict) else {"extra": extra_bits}
    for name, bits in extra.items():
        if name in payments:
            raise InputError(f"extra_bits names {name!r}, which is paid already; expected another name")
        payments[name] = checks.real(f"extra_bits {name!r}", bits, 0)
    return payments


def grid_payments(grid_sizes):
    """log2 of each grid's size, in bits, under the name ``<grid>_grid``."""
    return {f"{name}_grid": math.log2(size) for name, size in grid_sizes.items()}


def payments_nats(payments):
    """L in nats from itemised `payments` in bits."""
    return math.log(2) * math.fsum(payments.values())


def split_delta(delta, candidates=1):
    """(delta1, delta2) of our certificates: .001 and .999 of `delta`, whatever n and m are, so that m may itself be random.

    `candidates` > 1 divides delta2: the reported result may then be picked after looking at that many results of the same kind (table
    rows, redraws) computed from draws, without a pilot.
    """
    delta = checks.open_unit("delta", delta)
    return CORPUS_SHARE * delta, (1 - CORPUS_SHARE) * delta / checks.integer("candidates", candidates, 1)


def split_delta_paper(delta, m, n):
    """(delta1, delta2) of the paper (appendix A.2): ``delta n / (n + m)`` and ``delta m / (n + m)``."""
    delta = checks.open_unit("delta", delta)
    return delta * n / (n + m), delta * m / (n + m)
