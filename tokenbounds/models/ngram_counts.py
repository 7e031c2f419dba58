"""N-grams and counts of Markov chains as arrays, shared by the model and its codec.

`tokenbounds.models.markov` counts n-grams, `tokenbounds.codecs.counts` codes them; neither imports the other.
"""

import numpy as np

from tokenbounds.errors import InputError

MAX_COUNT = 65535  # 16 bits (paper, B.5)


def check_counts(counts, contexts):
    """Check that counts are 16-bit, and reduced within each context.

    Parameters
    ----------
    counts : ndarray of int, shape (N,)
    contexts : ndarray of int, shape (N,)
        Number of the context of each count, ascending.

    Raises
    ------
    InputError
        A count is outside 1..65535, or the counts of a context have a common divisor.
    """
    if counts.min() < 1 or counts.max() > MAX_COUNT:
        raise InputError(f"counts from {counts.min()} to {counts.max()}; expected 1 to {MAX_COUNT}")
    if (np.gcd.reduceat(counts, np.flatnonzero(np.diff(contexts, prepend=-1))) > 1).any():
        raise InputError("counts of a context with a common divisor; expected reduced counts")


def unrolled(levels, vocab_size):
    """Write out the longest n-grams, token by token.

    Parameters
    ----------
    levels : list of (ndarray of int, ndarray of int)
        For n = 1, 2, ..., context and last token of each n-gram, in lexicographic order. The context is the
        index of an (n-1)-gram, or the number of (n-1)-grams if it is the document's start.
    vocab_size : int
        Symbol V of places before a document's start.

    Returns
    -------
    ndarray of int32, shape (N, n)

    Notes
    -----
    With n = 2, V = 9 and the documents "5 6" and "5 7" (without their EOT)::

        levels[0]   context  0 0 0     last token  5 6 7    index  0 1 2
        levels[1]   context  0 0 3     last token  6 7 5    3 = number of 1-grams: a document's start
        result      (5 6)  (5 7)  (9 5)
    """
    parent, token = levels[-1]
    rows = np.full((token.size, len(levels)), vocab_size, np.int32)
    rows[:, -1] = token
    inside = np.arange(token.size)  # rows that have not reached the document's start
    for n in range(len(levels) - 1, 0, -1):
        above, token = levels[n - 1]
        inside, parent = inside[parent < token.size], parent[parent < token.size]
        rows[inside, n - 1] = token[parent]
        parent = above[parent]
    return rows
