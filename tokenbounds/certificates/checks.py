"""Outcome of one check of a certificate, and what a sample without a fault excludes."""

import dataclasses

import numpy as np

CONFIDENCE = 0.95
_MOST_CHARACTERS = 480


@dataclasses.dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes
    ----------
    name : str
    held : bool
    detail : str
        What was found, in one line.
    """

    name: str
    held: bool
    detail: str


def most_faults(total, sampled, confidence=CONFIDENCE):
    """Return the largest number of faults among `total` items that a faultless sample does not exclude.

    With f faults a sample of N out of n items, drawn without replacement, has none with probability
    C(n - f, N) / C(n, N); f is the largest number for which that is at least 1 - `confidence`.

    Parameters
    ----------
    total, sampled : int
        n, and N <= n.
    confidence : float

    Returns
    -------
    int

    Examples
    --------
    >>> most_faults(10_000, 50), most_faults(10_000, 500), most_faults(10_000, 10_000)
    (580, 58, 0)
    """
    clean = total - np.arange(total - sampled)  # items without fault, for f = 0, 1, ...
    # ln C(n - f, N) / C(n, N) by its ratios (n - f - N) / (n - f) from one f to the next
    missed = np.cumsum(np.log((clean - sampled) / clean))
    return int(np.count_nonzero(missed >= np.log(1 - confidence)))


def one_line(error):
    """Describe any exception in one line."""
    return f"{type(error).__name__}: {printable(str(error), 300)}"


def printable(text, most=_MOST_CHARACTERS):
    """Return a text, which may hold what a stranger wrote, as one line of at most `most` characters that a
    terminal only prints."""
    text = " ".join(text[: 4 * most].split())
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return text if len(text) <= most else f"{text[: most - 4]} ..."
