"""Inputs of drawn tokens, windows and documents, and the lengths from which their shapes follow."""

import numpy as np
import pytest
from support.stores import random_documents, write_store

from tokenbounds.corpus.contexts import ContextRule, document_items, token_items, window_items

V, EOT, LIMIT = 50, 0, 16


@pytest.fixture(scope="module")
def documents():
    return [[5], [7, 8], *random_documents(np.random.default_rng(3), 12), [9] * 40, [3]]


@pytest.fixture(scope="module")
def store(documents, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "train", documents, V, EOT, shards=3)


@pytest.mark.parametrize("start_token", ["first", "always"])
def test_the_length_of_a_token_is_that_of_what_stands_before_it(store, start_token):
    items = list(token_items(store, np.arange(store.m), ContextRule(LIMIT, start_token, EOT)))
    assert [item.length for item in items] == [item.ids.size for item in items]
    assert max(item.length for item in items) == LIMIT  # the start token included


@pytest.mark.parametrize("start_token", ["first", "always"])
def test_windows_and_documents_have_their_full_length_whatever_stands_in_them(store, start_token):
    rule = ContextRule(LIMIT, start_token, EOT)
    for items in (window_items(store, range(store.m // 8), 8, rule), document_items(store, range(16), rule)):
        items = list(items)
        assert all(item.ids.size <= item.length for item in items)
        assert all(item.length == LIMIT for item in items if item.ids.tolist() != [EOT])
        alone = [item for item in items if item.ids.tolist() == [EOT]]
        assert all(item.targets.size == 1 for item in alone) or start_token == "always"
        if start_token == "first":  # nothing stands before the token that such a pass scores
            assert alone and {item.length for item in alone} == {1}


@pytest.mark.parametrize("start_token", ["first", "always"])
def test_lengths_and_inputs_of_a_token_do_not_depend_on_what_follows_it(
    documents, store, tmp_path, start_token
):
    """The tokens of a document from a place on are replaced, or the document ends there: what comes before
    has the same inputs and the same length."""
    rule = ContextRule(LIMIT, start_token, EOT)
    long = [1 + i % 40 for i in range(30)]
    for cut in (1, 5, 15, 16, 29):
        seen = []
        for number, document in enumerate((long, long[:cut], [*long[:cut], 41, 42])):
            other = write_store(tmp_path / f"{cut}.{number}", [document], V, EOT)
            rows = {}
            for item in document_items(other, [0], rule):
                for j, position in enumerate(item.positions.tolist()):
                    if position < cut:
                        rows[position] = (item.length, item.ids[: item.first + j + 1].tolist())
            seen.append(rows)
        assert seen[0] == seen[1] == seen[2] and len(seen[0]) == min(cut, LIMIT)
