"""Sequences of integers with and without structure (paper, 6.5 and B.6).

Structured sequences are the values of short expression trees over the leaves i and 2 and the operators +, ×
and // for i = 0, 1, 2, ... As in the paper's source [Goldblum et al. 2023], a sequence's complexity is the
least number of operators of a tree that gives it. Random sequences have the same number and length, and their
integers are drawn from the distinct integers of the structured ones: only the structure is lost. ::

    complexity    tree          values for i = 0, 1, 2, ...
    0             i             0 1 2 3
    1             i * i         0 1 4 9
    2             2 + i * i     2 3 6 11"""

import itertools
import json
import operator

from tokenbounds.config.schema import Sequences
from tokenbounds.io.files import write_text
from tokenbounds.randomness import generator

DELIMITER = ","  # between two integers of a document


def _quotient(dividend, divisor):
    return dividend // divisor if divisor else dividend


_OPERATORS = (operator.add, operator.mul, _quotient)


def structured_sequences(complexity, length=30):
    """List all sequences of a complexity.

    Parameters
    ----------
    complexity : int
        Least number of operators of an expression tree that gives the sequence.
    length : int
        Number of values i = 0..length-1 that the trees are evaluated for; a // 0 = a.

    Returns
    -------
    list of tuple of int, each of `length`
        Different sequences in increasing order. For length 30, there are 2, 8, 40, 189, 984, 5377 of
        complexity 0 to 5.

    Notes
    -----
    A smallest tree of k operators has two smallest subtrees with k - 1 operators together (a smaller tree
    could replace a subtree), so it is enough to combine the distinct sequences of lower complexities.
    Integers are Python's and do not overflow."""
    classes, seen = [], set()
    for operators in range(complexity + 1):
        sequences = {tuple(range(length)), (2,) * length} if operators == 0 else set()
        for left, right in zip(classes, reversed(classes), strict=True):
            for a, b in itertools.product(left, right):
                sequences.update(tuple(map(apply, a, b)) for apply in _OPERATORS)
        classes.append(sequences - seen)
        seen |= sequences
    return sorted(classes[complexity])


def random_sequences(sequences, rng):
    """Draw as many sequences of the same length from the distinct integers of `sequences`, IID uniformly.

    Parameters
    ----------
    sequences : list of tuple of int
    rng : numpy.random.Generator

    Returns
    -------
    list of tuple of int
    """
    integers = sorted({value for sequence in sequences for value in sequence})
    drawn = rng.integers(0, len(integers), size=(len(sequences), len(sequences[0])))
    return [tuple(integers[place] for place in row) for row in drawn.tolist()]


def write_sequences(path, options, seed, corpus_name):
    """Write the documents of a corpus of sequences as jsonl, a record ``{"text": "0,1,4,9"}`` per sequence.

    Parameters
    ----------
    path : path
    options : tokenbounds.config.schema.Sequences or dict
    seed : int
        The run's seed; random sequences are drawn by the stream ``("sequences", corpus_name)``.
    corpus_name : str
        The corpus's key in the configuration: part of the stream's name.
    """
    options = Sequences.model_validate(options)
    sequences = structured_sequences(options.complexity, options.length)
    if options.random:
        sequences = random_sequences(sequences, generator(seed, "sequences", corpus_name))
    write_text(
        path,
        "".join(json.dumps({"text": DELIMITER.join(map(str, sequence))}) + "\n" for sequence in sequences),
    )
