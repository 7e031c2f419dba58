"""Repeated text: counts of hashes are those of a search by hand, and a corpus that repeats itself says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import EOT_ID, store_of, write_split

from tokenbounds.corpus import repetition
from tokenbounds.corpus.indexing import build_index
from tokenbounds.corpus.repetition import duplicate_documents, repeated_contexts, window_hashes
from tokenbounds.io.files import read_json

SHARDS = st.lists(
    st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=30), max_size=5), min_size=1, max_size=4
).filter(any)


def by_hand(documents, length):
    """Full contexts, those that stood earlier, and those that go on as the first time."""
    first, full, repeated, continued = {}, 0, 0, 0
    for ids in documents:
        tokens = [*ids, EOT_ID]
        for i in range(length, len(tokens)):
            context, following = tuple(tokens[i - length : i]), tokens[i]
            full += 1
            repeated += context in first
            continued += first.get(context) == following
            first.setdefault(context, following)
    return full, repeated, continued


@settings(max_examples=60, deadline=None)
@given(shards=SHARDS, length=st.integers(1, 9), block=st.integers(1, 40), pieces=st.integers(1, 50))
def test_counts_are_those_of_a_search(tmp_path_factory, shards, length, block, pieces):
    store = store_of(tmp_path_factory.mktemp("store"), shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repetition, "_BLOCK", block)
        patch.setattr(repetition, "_PIECES", pieces)
        found = repeated_contexts(store.shards(), length)
    documents = [ids for shard in shards for ids in shard]
    full, repeated, continued = by_hand(documents, length)
    assert (found["full"], found["repeated"], found["continued"]) == (full, repeated, continued)
    assert found["share"] == repeated / store.m and found["one_in"] == 1
    copies = len(documents) - len({tuple(ids) for ids in documents})
    assert duplicate_documents(store.shards()) == (copies, 1)


@given(tokens=st.lists(st.integers(0, 2), max_size=60), length=st.integers(1, 20))
def test_equal_windows_and_only_these_have_equal_hashes(tokens, length):
    hashes = window_hashes(np.array(tokens, np.uint16), length).tolist()
    windows = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
    assert len(hashes) == len(windows)
    assert len(dict(zip(hashes, windows, strict=True))) == len(set(windows))
    assert len(set(zip(hashes, windows, strict=True))) == len(set(windows))


def test_words_that_defeat_polynomials_modulo_a_power_of_two():
    """The Thue-Morse word and its complement collide under any polynomial hash modulo 2^64."""
    word = np.array([number.bit_count() % 2 for number in range(2048)], np.uint16)
    assert window_hashes(word, 2048) != window_hashes(1 - word, 2048)


def random_store(folder, rng, copies):
    words = [rng.integers(1, 50, 20).tolist() for _ in range(200)]
    documents = [[token for i in rng.integers(0, 200, 10) for token in words[i]] for _ in range(300)]
    return store_of(folder, [documents * copies])


def test_a_corpus_that_is_repeated_says_so(tmp_path):
    rng = np.random.default_rng(3)
    once, often = (random_store(tmp_path / str(copies), rng, copies) for copies in (1, 200))
    assert once.index["duplicate_documents"] == 0
    assert often.index["duplicate_documents"] == 199 * 300
    assert often.index["documents"] == 200 * 300
    repeated = often.index["repeated_contexts"]
    assert repeated["repeated"] >= 199 / 200 * repeated["full"] and repeated["context_length"] == 4
    assert repeated["share"] > 0.95


def test_of_a_large_corpus_a_part_of_the_hashes_is_counted(tmp_path, monkeypatch):
    """An estimate without bias: its mean over other hashes (of renamed tokens) is the exact count."""
    rng = np.random.default_rng(4)
    store = random_store(tmp_path / "a", rng, 1)
    exact = repeated_contexts(store.shards(), 8)
    monkeypatch.setattr(repetition, "_MOST_WINDOWS", exact["full"] // 7)
    estimates = []
    for _ in range(60):
        names = np.concatenate([[0], rng.permutation(np.arange(1, 60_000))]).astype(np.uint16)
        shards = [(names[tokens], ends) for tokens, ends in store.shards()]
        found = repeated_contexts(shards, 8)
        assert found["one_in"] == 8 and found["full"] == exact["full"]
        estimates.append(found["repeated"])
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert 0 < error < 0.02 * exact["repeated"]
    assert abs(np.mean(estimates) - exact["repeated"]) < 4 * error


def test_of_many_documents_a_part_is_compared(tmp_path, monkeypatch):
    documents = [[1 + number % 50, 1 + number // 50] for number in range(2000)] * 3
    store = store_of(tmp_path / "a", [documents])
    monkeypatch.setattr(repetition, "_MOST_DOCUMENTS", 3000)
    found, one_in = duplicate_documents(store.shards())
    assert one_in == 2 and abs(found - 4000) < 600


def test_what_is_not_counted(tmp_path, monkeypatch):
    folder = tmp_path / "train"
    paths = write_split(folder, [[[5, 6]]])
    build_index(paths, folder)
    assert read_json(folder / "index.json")["repeated_contexts"] is None
    monkeypatch.setattr(repetition, "MOST_TOKENS", 2)
    build_index(paths, folder, 1)
    assert read_json(folder / "index.json")["repeated_contexts"] is None
    val = store_of(tmp_path / "val", [[[5, 6]]], split="val")
    assert val.index["repeated_contexts"] is None and val.index["duplicate_documents"] is None
