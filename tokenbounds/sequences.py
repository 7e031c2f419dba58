"""Sequences of integers with and without structure (paper, 6.5 and B.6).

Structured sequences are the values of short expression trees over the leaves i and 2 and the operators +, × and // for i = 0, 1, 2, ... As
in the paper's source [Goldblum et al. 2023], a sequence's complexity is the least number of operators of a tree that gives it. Random
sequences are as many, of the same length, of integers drawn from the distinct integers of the structured ones: all that is lost is the
structure.
"""

import itertools
import json
import operator

from tokenbounds.files import write_text
from tokenbounds.sections import Sequences
from tokenbounds.streams import generator

DELIMITER = ","  # between two integers of a document


def _quotient(dividend, divisor):
    return dividend // divisor if divisor else dividend


_OPERATORS = (operator.add, operator.mul, _quotient)


def structured_sequences(complexity, length=30):
    """All sequences of a complexity.

    Parameters
    ----------
    complexity : int
        Least number of operators of an expression tree that gives the sequence.
    length : int
        Values i = 0..length-1 that the trees are evaluated for; a // 0 = a.

    Returns
    -------
    list of tuple of int, each of `length`
        Different sequences in increasing order. For length 30, there are 2, 8, 40, 189, 984, 5377 of complexity 0 to 5.

    Notes
    -----
    A least tree of k operators has two least subtrees of k - 1 operators together (a smaller one could replace a subtree), so it is enough
    to combine the distinct sequences of smaller complexities; integers are Python's and do not overflow.
    """
    classes, seen = [], set()
    for operators in range(complexity + 1):
        found = {tuple(range(length)), (2,) * length} if operators == 0 else set()
        for left, right in zip(classes, reversed(classes), strict=True):
            for a, b in itertools.product(left, right):
                found.update(tuple(map(apply, a, b)) for apply in _OPERATORS)
        classes.append(found - seen)
        seen |= found
    return sorted(classes[complexity])


def random_sequences(sequences, rng):
    """As many sequences of the same length, their integers IID uniform draws from the distinct integers of `sequences`.

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
    options : tokenbounds.sections.Sequences or dict
    seed : int
        The run's seed; random sequences are drawn by the stream ``("sequences", corpus_name)``.
    corpus_name : str
    """
    options = Sequences.model_validate(options)
    sequences = structured_sequences(options.complexity, options.length)
    if options.random:
        sequences = random_sequences(sequences, generator(seed, "sequences", corpus_name))
    write_text(path, "".join(json.dumps({"text": DELIMITER.join(map(str, sequence))}) + "\n" for sequence in sequences))
