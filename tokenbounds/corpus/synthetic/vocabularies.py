"""Vocabularies that the program itself defines: those of the corpora that it makes.

They were written down before any document was, so that a hypothesis does not pay for them."""

from tokenbounds.corpus.synthetic.integer_sequences import DELIMITER

INTEGERS = [*"0123456789", DELIMITER]  # the end-of-text token follows, however it is spelt
_AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# The 29 tokens of the paper's antibodies (B.9), in its order.
ANTIBODIES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *_AMINO_ACIDS,
    *("-", "[ClSep]", "[AbHC]", "[AbLC]"),
]


def is_of_the_program(tokens, eot):
    """Check whether a vocabulary, a list of tokens in order, is one that the program defines."""
    return list(tokens) in ([*INTEGERS, eot], ANTIBODIES)
