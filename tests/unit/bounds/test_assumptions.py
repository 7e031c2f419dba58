"""Tests that certificates state their assumptions in the same words everywhere."""

import pytest

from tokenbounds.bounds import CONDITIONING, DRAWS_STATEMENT, NOTHING_MORE, WITHOUT_BEACON
from tokenbounds.bounds.methods import METHODS


def joined(path):
    """Text without its line breaks."""
    return " ".join(path.read_text(encoding="utf-8").split())


def test_the_statement_on_draws_is_that_of_the_theory(root):
    text = joined(root / "docs" / "theory.md")
    assert f"**Statement.** {DRAWS_STATEMENT}" in text
    assert WITHOUT_BEACON.removesuffix(".") in text


def test_the_statement_is_word_for_word_the_refereed_one(shared):
    text = joined(shared / "THEORY.md")
    assert DRAWS_STATEMENT in text and WITHOUT_BEACON.removesuffix(".") in text


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_m_is(name):
    method = METHODS[name]
    assert method.assumption == f"{method.assumes}; {CONDITIONING}"
    assert "given everything before it" in CONDITIONING
    assert (method.assumes == NOTHING_MORE) == method.certifies
