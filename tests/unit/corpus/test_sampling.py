"""Draws: uniform, derived from the message and all else that they depend on; windows cut at document ends."""

import hashlib
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import store_of, write_index

from tokenbounds.bounds.subsampling import pilot_size
from tokenbounds.corpus.sampling import (
    Segment,
    draw,
    draw_key,
    positions_of_stream,
    uniform_integers,
    window_segments,
)
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json
from tokenbounds.randomness import generator

TOKEN = {"mode": "token", "context_length": 64}
WINDOWS = {"mode": "window", "context_length": 8, "window": 3}
DOCUMENTS = {"mode": "document", "context_length": 64}
KEY = bytes(range(32))


def test_draws_are_uniform_over_all_tokens(tmp_path):
    # Very different documents and shards, an empty one among them: each token must be as likely as any other.
    store = store_of(tmp_path / "train", [[[5] * 29, [6]], [], [[7] * 2], [[8] * 9, [9] * 4, [3] * 60]])
    big = CorpusIndex(write_index(tmp_path / "big", [store.m] * 1000, [store.m * 1000]))
    drawn = draw(big, TOKEN, 50_000, KEY)["position"]
    assert scipy.stats.chisquare(np.bincount(drawn % store.m, minlength=store.m)).pvalue > 1e-3
    frame = draw(store, TOKEN, store.m, KEY)
    assert list(frame.columns) == ["draw", "position", "document"] and (frame.dtypes == np.int64).all()
    assert frame["draw"].tolist() == list(range(store.m)) and frame["position"].duplicated().any()
    assert frame["document"].tolist() == store.document_of(frame["position"].to_numpy()).tolist()


def test_draws_of_windows_and_documents(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3, 9], [22]))
    windows = draw(index, WINDOWS, 7, KEY)
    assert list(windows.columns) == ["draw", "window", "position", "document"]
    assert (windows["position"] == 3 * windows["window"]).all() and windows["window"].max() < 7
    documents = draw(index, DOCUMENTS, 3, KEY)
    assert documents["document"].isin([0, 1, 2]).all()
    assert documents["position"].tolist() == [[0, 10, 13][number] for number in documents["document"]]


def test_numbers_by_hand():
    """The generator as docs/theory.md, section 10, has it, in its plainest form."""
    limit = 3 * 2**61  # a third of the words is rejected
    found, rejected = uniform_integers(KEY, 200, limit), 0
    for j in range(200):
        counter = 0
        while True:
            block = KEY + j.to_bytes(8, "little") + counter.to_bytes(8, "little")
            word = int.from_bytes(hashlib.sha256(block).digest()[:8], "little")
            if word < 2 * limit:
                break
            counter, rejected = counter + 1, rejected + 1
        assert found[j] == word % limit
    assert 20 < rejected < 100
    assert (uniform_integers(KEY, 50, limit) == found[:50]).all()


def test_every_field_changes_the_draws():
    fields = {"message": "0" * 64, "index": "1" * 64, "context": TOKEN, "n": 100, "beacon": ""}

    def key(**changes):
        return draw_key(*(fields | changes).values())

    others = [
        key(message="0" * 63 + "1"),
        key(index="1" * 63 + "0"),
        key(context=DOCUMENTS),
        key(context=TOKEN | {"context_length": 65}),
        key(context=TOKEN | {"mode": "window", "window": 1}),
        key(context=TOKEN | {"mode": "window", "window": 2}),
        key(n=101),
        key(beacon=" "),
    ]
    assert len({key(), *others}) == 1 + len(others) and key() == key()
    numbers = [uniform_integers(key, 4000, 1 << 40) for key in (key(), others[0])]
    assert abs(np.corrcoef(numbers)[0, 1]) < 5 / np.sqrt(4000)


def test_the_key_by_hand():
    """Each field behind its length; two layouts of the same bytes are two keys."""
    fields = [b"tokenbounds draws 1", bytes(32), bytes([17] * 32), b"window"]
    fields += [number.to_bytes(8, "little") for number in (95, 10, 8, 3)] + [b"round 7"]
    digest = hashlib.sha256(b"".join(len(field).to_bytes(8, "little") + field for field in fields))
    assert draw_key("0" * 64, "11" * 32, WINDOWS, 95, "round 7") == digest.digest()


@pytest.mark.parametrize("n", [2, 10, 11, 95, 10_000])
def test_the_pilot_of_the_key_is_that_of_the_bounds(n):
    fields = (b"tokenbounds draws 1", bytes(32), bytes(32), b"token")
    numbers = (number.to_bytes(8, "little") for number in (n, pilot_size(n), 64, 0))
    digest = hashlib.sha256()
    for field in (*fields, *numbers, b""):
        digest.update(len(field).to_bytes(8, "little") + field)
    assert draw_key("0" * 64, "0" * 64, TOKEN, n) == digest.digest()


def test_provenance_is_no_part_of_the_identity(tmp_path):
    """Whoever indexes the same tokens anew, with another version, gets the same draws."""
    folder = write_index(tmp_path / "train", [10, 3], [13])
    before = CorpusIndex(folder).identity
    index = read_json(folder / "index.json")
    write_json(folder / "index.json", index | {"provenance": {"commit": "another"}})
    assert CorpusIndex(folder).identity == before
    write_json(folder / "index.json", index | {"tokens_sha256": "1" * 64})
    assert CorpusIndex(folder).identity != before


def test_more_draws_than_there_is(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3], [13]))
    for context, n, units in (
        (TOKEN, 13, "tokens"),
        (WINDOWS, 4, "windows of 3 tokens"),
        (DOCUMENTS, 2, "documents"),
    ):
        assert len(draw(index, context, n, KEY)) == n
        with pytest.raises(InputError) as error:
            draw(index, context, n + 1, KEY)
        expected = f"n = {n + 1} draws from {n} {units} (m = 13 tokens); expected at most {n}"
        assert str(error.value) == f"{tmp_path}/train: {expected}"


def test_an_index_of_a_million_shards_is_drawn_from_in_seconds(tmp_path):
    tokens = np.random.default_rng(0).integers(1, 10**6, size=10**6)
    write_index(tmp_path / "train", tokens, tokens)
    began = time.process_time()
    frame = draw(CorpusIndex(tmp_path / "train"), TOKEN, 10_000, KEY)
    assert time.process_time() - began < 10
    ends = np.cumsum(tokens)
    document, position = frame["document"].to_numpy(), frame["position"].to_numpy()
    assert ((position < ends[document]) & (position >= ends[document] - tokens[document])).all()


def test_positions_of_a_named_stream(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10_000], [10_000]))
    found = positions_of_stream(index, 100, 1, "contexts", "a")
    assert found.tolist() == generator(1, "contexts", "a").integers(0, 10_000, 100).tolist()


# ---------------------------------------------------------------- windows


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=25),
    window_tokens=st.integers(1, 30),
    more=st.integers(0, 30),
)
def test_each_token_of_a_window_is_in_one_segment(lengths, window_tokens, more):
    ends = np.cumsum(lengths, dtype="<u8")
    owner = np.repeat(np.arange(len(lengths)), lengths)
    starts = (ends - np.array(lengths, "<u8")).astype(np.int64)
    context_length = window_tokens + more
    windows = len(owner) // window_tokens
    scored = []
    for window in range(windows):
        segments = window_segments(window, window_tokens, context_length, ends)
        begin = window * window_tokens
        assert sum(segment.stop - segment.start for segment in segments) <= context_length
        for document, start, first, stop in segments:
            assert start <= first < stop
            assert (owner[start:stop] == document).all()  # no token of another document reaches a prediction
            assert start == max(starts[document], begin - more, 0)
            # A scored token sees L - S tokens, or its document from the start.
            assert all(
                position - start >= more or start == starts[document] for position in range(first, stop)
            )
            scored += range(first, stop)
    assert scored == list(range(windows * window_tokens))
    with pytest.raises(
        InputError,
        match=f"^window {windows} of {window_tokens} tokens is outside the corpus of {len(owner)} tokens$",
    ):
        window_segments(windows, window_tokens, context_length, ends)


def test_window_segments_by_hand():
    # Documents 0..3, 4..5, 6..15; window 1 of 4 tokens is 4..7, fed from position 2 on.
    ends = np.array([4, 6, 16], "<u8")
    assert window_segments(1, 4, 6, ends) == [Segment(1, 4, 4, 6), Segment(2, 6, 6, 8)]
    assert window_segments(2, 4, 5, ends) == [Segment(2, 7, 8, 12)]
    assert window_segments(2, 4, 10, ends) == [Segment(2, 6, 8, 12)]
    with pytest.raises(InputError, match=r"^window of 4 tokens is longer than the context length 3$"):
        window_segments(0, 4, 3, ends)
