"""Draws: uniform over all tokens, seeded by name, in files that are checked; windows cut at document ends."""

import hashlib
import time

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import store_of, write_index

from tokenbounds.config.schema import Sampling
from tokenbounds.corpus.sampling import (
    Segment,
    draw_positions,
    draw_windows,
    read_positions,
    window_segments,
    write_positions,
)
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json
from tokenbounds.randomness import generator


def test_draws_are_uniform_over_all_tokens(tmp_path):
    # Very different documents and shards, an empty one among them: each token must be as likely as any other.
    store = store_of(tmp_path / "train", [[[5] * 29, [6]], [], [[7] * 2], [[8] * 9, [9] * 4, [3] * 60]])
    rng_free = draw_positions(
        CorpusIndex(write_index(tmp_path / "big", [store.m] * 1000, [store.m * 1000])), 50_000, 137, "text"
    )
    counts = np.bincount(rng_free["position"] % store.m, minlength=store.m)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    frame = draw_positions(store, store.m, 137, "text")
    assert list(frame.columns) == ["draw", "position", "document"] and (frame.dtypes == np.int64).all()
    assert frame["draw"].tolist() == list(range(store.m)) and frame["position"].duplicated().any()
    assert frame["document"].tolist() == store.document_of(frame["position"].to_numpy()).tolist()


def test_draws_are_seeded_by_name(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10_000], [10_000]))
    drawn = [
        draw_positions(index, 100, seed, name)["position"].tolist()
        for seed, name in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]
    ]
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2] and drawn[0] != drawn[3]
    assert drawn[0] == generator(1, "positions", "a").integers(0, 10_000, 100).tolist()
    assert (
        draw_windows(index, 100, 7, 1, "a")["window"].tolist()
        == generator(1, "windows", "a").integers(0, 1428, 100).tolist()
    )


def test_more_draws_than_tokens(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3], [13]))
    assert len(draw_positions(index, 13, 1, "a")) == 13 and len(draw_windows(index, 4, 3, 1, "a")) == 4
    with pytest.raises(InputError) as error:
        draw_positions(index, 14, 1, "a")
    assert str(error.value) == f"{tmp_path}/train: n = 14 draws from m = 13 tokens; expected n <= m"
    with pytest.raises(InputError) as error:
        draw_windows(index, 5, 3, 1, "a")
    assert (
        str(error.value)
        == f"{tmp_path}/train: n = 5 draws from 4 windows of 3 tokens (m = 13); expected n <= windows"
    )


def test_an_index_of_a_million_shards_is_drawn_from_in_seconds(tmp_path):
    tokens = np.random.default_rng(0).integers(1, 10**6, size=10**6)
    write_index(tmp_path / "train", tokens, tokens)
    began = time.perf_counter()
    frame = draw_positions(CorpusIndex(tmp_path / "train"), 10_000, 137, "text")
    assert time.perf_counter() - began < 10
    ends = np.cumsum(tokens)
    document, position = frame["document"].to_numpy(), frame["position"].to_numpy()
    assert ((position < ends[document]) & (position >= ends[document] - tokens[document])).all()


@pytest.mark.parametrize(
    "sampling", [Sampling(n=20), Sampling(mode="window", n=5, window=4, context_length=8)]
)
def test_positions_file(tmp_path, sampling):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3, 9], [22]))
    path = tmp_path / "text.token.parquet"
    write_positions(path, index, sampling, 137, "text")
    frame = read_positions(path, index)
    sidecar = read_json(tmp_path / "text.token.json")
    assert sidecar["draws"] == len(frame) == sampling.n
    assert sidecar["m_tokens"] == (22 if sampling.mode == "token" else 20) and sidecar["index_m_tokens"] == 22
    expected = (
        draw_positions(index, 20, 137, "text")
        if sampling.mode == "token"
        else draw_windows(index, 5, 4, 137, "text")
    )
    pd.testing.assert_frame_equal(frame, expected)
    first = path.read_bytes()
    write_positions(path, index, sampling, 137, "text")
    assert path.read_bytes() == first

    other = CorpusIndex(write_index(tmp_path / "other", [10, 3, 10], [23]))
    with pytest.raises(
        InputError, match=f"^{path}: drawn from a corpus of 22 tokens, but {tmp_path}/other has 23$"
    ):
        read_positions(path, other)
    moved = CorpusIndex(write_index(tmp_path / "moved", [1] * 22, [22]))
    with pytest.raises(InputError, match=f"^{path}: its documents are not those of {tmp_path}/moved$"):
        read_positions(path, moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame.iloc[::-1],
            "20 draws out of order or incomplete; expected draws 0 to 19 in order",
        ),
        (
            lambda frame: frame.iloc[:-1],
            "19 draws out of order or incomplete; expected draws 0 to 19 in order",
        ),
        (
            lambda frame: frame.astype({"position": np.int32}),
            "columns draw int64, position int32, document int64;"
            " expected draw, position, document, all int64",
        ),
        (
            lambda frame: frame[["draw", "position"]],
            "columns draw int64, position int64; expected draw, position, document, all int64",
        ),
        (lambda frame: frame.assign(position=frame["position"] + 22), "position "),
    ],
)
def test_wrong_positions_files(tmp_path, change, message):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3, 9], [22]))
    path = tmp_path / "text.token.parquet"
    write_positions(path, index, Sampling(n=20), 137, "text")
    change(read_positions(path, index)).to_parquet(path, index=False)
    with pytest.raises(InputError, match=f"^{path}: changed since it was written"):
        read_positions(path, index)
    sidecar = read_json(tmp_path / "text.token.json")
    write_json(
        tmp_path / "text.token.json", sidecar | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    )
    with pytest.raises(InputError) as error:
        read_positions(path, index)
    assert message in str(error.value) and "\n" not in str(error.value)


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
