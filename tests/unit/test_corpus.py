"""Roles, index, token store and draws: every token counted once, and every damaged file named."""

import hashlib
import json
import math
import time

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbounds import corpus
from tokenbounds.corpus import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    CorpusIndex,
    Segment,
    TokenStore,
    build_index,
    document_roles,
    draw_positions,
    draw_windows,
    read_manifest,
    read_positions,
    split_documents,
    token_dtype,
    window_segments,
    write_manifest,
    write_positions,
)
from tokenbounds.errors import InputError
from tokenbounds.files import read_json, write_json
from tokenbounds.sections import Corpus, Sampling
from tokenbounds.sources import SourceFile
from tokenbounds.streams import generator

EOT_ID, VOCAB = 0, 300


def write_split(folder, shards, vocab_size=VOCAB, split="train"):
    """Write and index shards given as lists of documents (ids without EOT)."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = token_dtype(vocab_size)
    for number, documents in enumerate(shards):
        tokens = np.array([token for ids in documents for token in [*ids, EOT_ID]], dtype).tobytes()
        ends = np.cumsum([len(ids) + 1 for ids in documents], dtype="<u8").tobytes()
        (folder / f"{number:05d}.bin").write_bytes(tokens)
        (folder / f"{number:05d}.ends.bin").write_bytes(ends)
        sidecar = {
            "split": split, "shard": number, "shards": len(shards), "dtype": dtype.name, "vocab_size": vocab_size, "eot_id": EOT_ID,
            "tokenizer_sha256": "t", "tokens": len(tokens) // dtype.itemsize, "documents": len(documents),
            "sha256": hashlib.sha256(tokens).hexdigest(), "ends_sha256": hashlib.sha256(ends).hexdigest(), "provenance": {"config": {}},
        }  # fmt: skip
        write_json(folder / f"{number:05d}.json", sidecar)
    return sidecars(folder, len(shards))


def sidecars(folder, count):
    return [folder / f"{number:05d}.json" for number in range(count)]


def store_of(folder, shards, **more):
    build_index(write_split(folder, shards, **more), folder)
    return TokenStore(folder)


def write_index(folder, documents_tokens, shard_tokens):
    """An index without shards: enough to draw from."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(documents_tokens, dtype="<u8")
    (folder / "ends.bin").write_bytes(ends.tobytes())
    index = {
        "m_tokens": int(ends[-1]), "documents": len(ends), "split": "train", "shards": [], "dtype": "uint16", "vocab_size": VOCAB,
        "eot_id": EOT_ID, "tokenizer_sha256": "t", "cumulative_tokens": [0, *np.cumsum(shard_tokens).tolist()],
        "ends_sha256": hashlib.sha256(ends.tobytes()).hexdigest(), "provenance": {},
    }  # fmt: skip
    index["shards"] = [
        {"name": f"{number:05d}", "tokens": int(tokens), "documents": 1, "sha256": "0" * 64} for number, tokens in enumerate(shard_tokens)
    ]
    (folder / "index.json").write_text(json.dumps(index))
    return folder


DOCUMENT = st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=12)
SHARDS = st.lists(st.lists(DOCUMENT, max_size=4), min_size=1, max_size=5).filter(any)


# ---------------------------------------------------------------- roles and manifest


def test_split_is_that_of_datasets():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"number": range(1003)}).train_test_split(test_size=0.0215, seed=2357, shuffle=True)
    assert split_documents(1003, 0.0215, 2357).tolist() == data["test"]["number"]


def test_openwebtext_split():
    # The size as published for the 8,013,769 documents, and the test split that datasets 5.2 makes of ten.
    held = split_documents(8_013_769, 0.0005, 2357)
    assert len(held) == 4007 and len(set(held.tolist())) == 4007
    assert split_documents(10, 0.25, 2357).tolist() == [8, 3, 0]
    assert len(split_documents(10, 0.0, 2357)) == 0


def corpus_of(val=0.0, fraction=None, **more):
    tokenizer = {"file": "tokenizer.json"} if fraction is None else {"train": {"vocab_size": 300, "fraction": fraction}}
    return Corpus(source={"files": ["*.jsonl"]}, tokenizer=tokenizer, split={"val": val}, **more)


@given(documents=st.integers(1, 300), val=st.sampled_from([0.0, 0.01, 0.3]), fraction=st.sampled_from([None, 0.1, 0.5]))
def test_roles_are_disjoint_and_of_the_asked_sizes(documents, val, fraction):
    roles = document_roles(corpus_of(val, fraction), documents, 137, "text")
    held = math.ceil(val * documents)
    trained = 0 if fraction is None else min(math.ceil(fraction * documents), documents - held)
    assert [(roles == role).sum() for role in (TRAIN, VALIDATION, TOKENIZER)] == [documents - held - trained, held, trained]
    assert set(np.flatnonzero(roles == VALIDATION)) == set(split_documents(documents, val, 2357))


def test_the_tokenizer_sample_has_its_own_stream():
    roles = [document_roles(corpus_of(0.1, 0.3), 500, seed, name) for seed, name in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]]
    assert np.array_equal(roles[0], roles[1])
    assert not np.array_equal(roles[0], roles[2]) and not np.array_equal(roles[0], roles[3])
    for other in roles[2:]:
        assert np.array_equal(roles[0] == VALIDATION, other == VALIDATION)  # the split has its own seed


def jsonl(path, count):
    path.write_text("".join(json.dumps({"text": f"{path.stem} {number}"}) + "\n" for number in range(count)))
    return SourceFile(str(path))


def test_manifest(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", 5), jsonl(tmp_path / "b.jsonl", 0), jsonl(tmp_path / "c.jsonl", 6)]
    write_manifest(corpus_of(0.2, shards=3), 137, "text", files, tmp_path / "documents.json", tmp_path / "roles.bin")
    manifest, counted, roles = read_manifest(tmp_path / "documents.json", tmp_path / "roles.bin")
    assert manifest["documents"] == 11 and manifest["shards"] == [[0, 3], [3, 7], [7, 11]]
    assert manifest["roles"] == {"train": 8, "val": 3, "tokenizer": 0} and len(roles) == 11
    hashes = [hashlib.sha256(file.location.read_bytes()).hexdigest() for file in files]
    assert counted == [(file, file.bytes(), *more) for file, *more in zip(files, (5, 0, 6), hashes, strict=True)]
    assert manifest["provenance"]["seed"] == 137


def test_an_edit_of_the_same_length_changes_the_manifest(tmp_path):
    files = [SourceFile(str(tmp_path / "a.txt"))]
    manifests = []
    for text in ("one", "two"):
        (tmp_path / "a.txt").write_text(text)
        write_manifest(corpus_of(), 137, "text", files, tmp_path / "documents.json", tmp_path / "roles.bin")
        manifests.append((tmp_path / "documents.json").read_bytes())
    assert len(manifests[0]) == len(manifests[1]) and manifests[0] != manifests[1]


@pytest.mark.parametrize("key", ["roles_sha256", "shards", "files"])
def test_a_manifest_that_lacks_a_key(tmp_path, key):
    write_manifest(corpus_of(), 137, "text", [jsonl(tmp_path / "a.jsonl", 5)], tmp_path / "documents.json", tmp_path / "roles.bin")
    manifest = read_json(tmp_path / "documents.json")
    del manifest[key]
    write_json(tmp_path / "documents.json", manifest)
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path / "documents.json", tmp_path / "roles.bin")
    assert str(error.value) == f"{tmp_path}/documents.json: not a manifest of documents (key '{key}' is missing)"


def test_empty_corpus(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", 0)]
    with pytest.raises(InputError) as error:
        write_manifest(corpus_of(), 137, "text", files, tmp_path / "documents.json", tmp_path / "roles.bin")
    assert str(error.value) == f"corpora.text: no documents in 1 files ({tmp_path}/a.jsonl, ...); a corpus cannot be empty"
    with pytest.raises(InputError) as error:
        write_manifest(corpus_of(0.1), 137, "text", [jsonl(tmp_path / "a.jsonl", 1)], tmp_path / "documents.json", tmp_path / "roles.bin")
    assert str(error.value) == "corpora.text: of 1 documents 1 are for validation and 0 for the tokenizer; none is left to count"
    assert not (tmp_path / "documents.json").exists() and not (tmp_path / "roles.bin").exists()
    with pytest.raises(InputError) as error:
        store_of(tmp_path / "train", [[], []])
    assert str(error.value) == f"{tmp_path}/train: the train split has no tokens; a corpus cannot be empty"
    assert not (tmp_path / "train/index.json").exists() and not (tmp_path / "train/ends.bin").exists()
    empty = store_of(tmp_path / "val", [[], []], split="val")
    assert (empty.m, empty.documents, len(empty.tokens(0, 0))) == (0, 0, 0)


# ---------------------------------------------------------------- index and store


@settings(max_examples=60, deadline=None)
@given(shards=SHARDS, data=st.data())
def test_store_is_the_joined_sequence(tmp_path_factory, shards, data):
    store = store_of(tmp_path_factory.mktemp("store"), shards)
    documents = [[*ids, EOT_ID] for shard in shards for ids in shard]
    joined = [token for document in documents for token in document]
    owner = [number for number, document in enumerate(documents) for _ in document]
    start_of = [sum(map(len, documents[:number])) for number in owner]
    assert (store.m, store.documents, store.vocab_size, store.eot_id) == (len(joined), len(documents), VOCAB, EOT_ID)
    start = data.draw(st.integers(0, store.m))
    stop = data.draw(st.integers(start, store.m))
    assert store.tokens(start, stop).tolist() == joined[start:stop]
    everywhere = np.arange(store.m)
    assert store.document_of(everywhere).tolist() == owner
    assert store.document_start(everywhere).tolist() == start_of
    for position in everywhere:
        before = joined[:position]
        assert store.document_start(position) == (position - before[::-1].index(EOT_ID) if EOT_ID in before else 0)


def test_tokens_and_document_starts_by_hand(tmp_path):
    store = store_of(tmp_path / "train", [[[5, 6], [7]], [[8, 9, 10]]])
    assert store.tokens(0, store.m).tolist() == [5, 6, 0, 7, 0, 8, 9, 10, 0]
    assert store.tokens(0, 3).dtype == np.uint16
    assert store.document_start(np.array([[0, 4], [5, 8]])).tolist() == [[0, 3], [5, 5]]


def test_large_vocabularies_are_uint32(tmp_path):
    assert token_dtype(65_536) == np.uint16 and token_dtype(65_537) == np.uint32
    store = store_of(tmp_path / "train", [[[70_000, 65_536]]], vocab_size=70_001)
    assert store.tokens(0, 3).tolist() == [70_000, 65_536, 0] and store.tokens(0, 3).dtype == np.uint32


def test_positions_beyond_2_to_53_are_not_rounded(tmp_path):
    # Document lookups compare integers: as float64, neighbours beyond 2^53 would be equal.
    folder = write_index(tmp_path / "train", [2**53, 1, 1, 1], [2**53 + 3])
    index = CorpusIndex(folder)
    positions = 2**53 + np.arange(-1, 3)
    assert index.document_of(positions).tolist() == [0, 1, 2, 3]
    assert index.document_start(positions).tolist() == [0, 2**53, 2**53 + 1, 2**53 + 2]
    assert window_segments(2**53, 1, 4, index.ends) == [Segment(1, 2**53, 2**53, 2**53 + 1)]


def test_positions_outside_are_refused(tmp_path):
    store = store_of(tmp_path / "train", [[[5, 6]]])
    for position in (-1, 3):
        with pytest.raises(InputError, match=f"train: position {position} is outside the corpus of 3 tokens$"):
            store.document_of([0, position])
    with pytest.raises(InputError, match=r"train: tokens 1 to 4 are outside the corpus of 3 tokens$"):
        store.tokens(1, 4)


def edit(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data) or data)


def set_token(index, value):
    def change(data):
        data[2 * index : 2 * index + 2] = int(value).to_bytes(2, "little")

    return change


def test_truncated_shard(tmp_path):
    folder = tmp_path / "train"
    paths = write_split(folder, [[[5, 6]], [[7, 8, 9]]])
    whole = (folder / "00001.bin").read_bytes()
    (folder / "00001.bin").write_bytes(whole[:-3])
    message = f"{folder}/00001.bin: 5 bytes, expected 8 (truncated?)"
    with pytest.raises(InputError) as error:
        build_index(paths, folder)
    assert str(error.value) == message and not (folder / "index.json").exists()
    (folder / "00001.bin").write_bytes(whole)
    build_index(paths, folder)
    (folder / "00001.bin").write_bytes(whole[:-3])
    with pytest.raises(InputError) as error:
        TokenStore(folder)
    assert str(error.value) == message
    (folder / "00001.bin").unlink()
    with pytest.raises(InputError, match="^" + f"{folder}/00001.bin: no such file$"):
        TokenStore(folder)


def test_a_shard_edited_after_indexing_is_named_before_its_tokens_are_used(tmp_path):
    folder = tmp_path / "train"
    store = store_of(folder, [[[5, 6]], [[7, 8, 9]]])
    assert store.tokens(0, 3).tolist() == [5, 6, 0]
    edit(folder / "00001.bin", set_token(0, 1))
    for reopened in (store, TokenStore(folder)):
        assert reopened.tokens(0, 3).tolist() == [5, 6, 0]  # the whole shard is usable
        for _ in range(2):
            with pytest.raises(InputError, match="^" + f"{folder}/00001.bin: changed since it was written"):
                reopened.tokens(2, 4)
    assert TokenStore(folder, verify=False).tokens(2, 4).tolist() == [0, 1]
    edit(folder / "00001.bin", set_token(0, VOCAB))
    with pytest.raises(InputError, match=f"train: token 3 has id {VOCAB}, outside the vocabulary of {VOCAB}$"):
        TokenStore(folder, verify=False).tokens(2, 4)
    edit(folder / "ends.bin", lambda data: data[:8][::-1] + data[8:])
    with pytest.raises(InputError, match="^" + f"{folder}/ends.bin: changed since it was written"):
        TokenStore(folder)


def test_only_shards_of_a_small_corpus_are_hashed_by_default(tmp_path, monkeypatch):
    store = store_of(tmp_path / "train", [[[5, 6]], [[7, 8, 9]]])
    edit(tmp_path / "train/00001.bin", set_token(0, 1))
    monkeypatch.setattr(corpus, "_VERIFIED_BYTES", 2 * store.m)  # of uint16
    with pytest.raises(InputError, match=r"00001\.bin: changed since it was written"):
        TokenStore(tmp_path / "train").tokens(2, 4)
    monkeypatch.setattr(corpus, "_VERIFIED_BYTES", 2 * store.m - 1)
    large = TokenStore(tmp_path / "train")
    assert large.tokens(2, 4).tolist() == [0, 1]
    with pytest.raises(InputError, match=r"00001\.bin: changed since it was written"):
        large.check_shards()


def rehash(path, **changes):
    """Make a sidecar agree with an edited shard, so that only what the shard says is wrong."""
    sidecar = read_json(path)
    for key, suffix in (("sha256", ".bin"), ("ends_sha256", ".ends.bin")):
        sidecar[key] = hashlib.sha256(path.with_suffix(suffix).read_bytes()).hexdigest()
    write_json(path, {**sidecar, **changes})


@pytest.mark.parametrize(
    ("change", "changes", "message"),
    [
        (set_token(1, VOCAB), {}, "00001.bin: token 1 has id 300, outside the vocabulary of 300"),
        (set_token(1, EOT_ID), {}, "00001.bin: end-of-text tokens (id 0) are not where its .ends.bin says that documents end"),
        (set_token(3, 5), {}, "00001.bin: 4 tokens in 0 documents, but its .ends.bin lists 1"),
        (set_token(1, 5), {"sha256": "0" * 64}, "00001.bin: changed since it was written (sha256 "),
        (set_token(1, 5), {"eot_id": 1}, "00001.json: eot_id 1, but 0 in "),
        (set_token(1, 5), {"tokenizer_sha256": "u"}, "00001.json: tokenizer_sha256 u, but t in "),
        (set_token(1, 5), {"shard": 2}, "00001.json: shard 2 in "),
    ],
)
def test_index_refuses_inconsistent_shards(tmp_path, change, changes, message):
    folder = tmp_path / "train"
    paths = write_split(folder, [[[5, 6]], [[7, 8, 9]]])
    edit(folder / "00001.bin", change)
    rehash(paths[1], **changes)
    with pytest.raises(InputError) as error:
        build_index(paths, folder)
    assert str(error.value).startswith(f"{folder}/{message}") and "\n" not in str(error.value)
    assert not (folder / "index.json").exists()


@pytest.mark.parametrize("key", ["split", "shard", "tokens", "ends_sha256", "provenance"])
def test_index_refuses_a_sidecar_that_lacks_a_key(tmp_path, key):
    paths = write_split(tmp_path / "train", [[[5, 6]], [[7]]])
    sidecar = read_json(paths[1])
    del sidecar[key]
    write_json(paths[1], sidecar)
    with pytest.raises(InputError) as error:
        build_index(paths, tmp_path / "train")
    assert str(error.value) == f"{paths[1]}: not a shard's sidecar (key '{key}' is missing)"


def test_index_refuses_missing_shards(tmp_path):
    paths = write_split(tmp_path / "train", [[[5]], [[6]]])
    with pytest.raises(InputError, match=r"train: 1 shards given, expected 2$"):
        build_index(paths[:1], tmp_path / "train")
    with pytest.raises(InputError, match="expected shard 0 in"):
        build_index(paths[::-1], tmp_path / "train")


def test_vocabulary_above_the_dtype(tmp_path):
    folder = tmp_path / "train"
    (path,) = write_split(folder, [[[5]]])
    rehash(path, vocab_size=65_537)
    with pytest.raises(InputError) as error:
        build_index([path], folder)
    assert str(error.value) == f"{path}: dtype uint16 for a vocabulary of 65537, expected uint32"
    with pytest.raises(InputError, match=r"^vocabulary of 4294967297 ids: expected 1 to 2\^32, the most that a uint32 token holds$"):
        token_dtype(2**32 + 1)


@pytest.mark.parametrize("change", [{"m_tokens": 4}, {"cumulative_tokens": [0, 2]}, {"vocab_size": 70_000}, {"dtype": None}])
def test_index_edited_by_hand(tmp_path, change):
    folder = tmp_path / "train"
    store_of(folder, [[[5, 6]]])
    index = {key: value for key, value in (read_json(folder / "index.json") | change).items() if value is not None}
    write_json(folder / "index.json", index)
    with pytest.raises(InputError, match="^" + f"{folder}/index.json: "):
        CorpusIndex(folder)


# ---------------------------------------------------------------- draws


def test_draws_are_uniform_over_all_tokens(tmp_path):
    # Very different documents and shards, an empty one among them: each token must be as likely as any other.
    store = store_of(tmp_path / "train", [[[5] * 29, [6]], [], [[7] * 2], [[8] * 9, [9] * 4, [3] * 60]])
    rng_free = draw_positions(CorpusIndex(write_index(tmp_path / "big", [store.m] * 1000, [store.m * 1000])), 50_000, 137, "text")
    counts = np.bincount(rng_free["position"] % store.m, minlength=store.m)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    frame = draw_positions(store, store.m, 137, "text")
    assert list(frame.columns) == ["draw", "position", "document"] and (frame.dtypes == np.int64).all()
    assert frame["draw"].tolist() == list(range(store.m)) and frame["position"].duplicated().any()
    assert frame["document"].tolist() == store.document_of(frame["position"].to_numpy()).tolist()


def test_draws_are_seeded_by_name(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10_000], [10_000]))
    drawn = [draw_positions(index, 100, seed, name)["position"].tolist() for seed, name in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]]
    assert drawn[0] == drawn[1] and drawn[0] != drawn[2] and drawn[0] != drawn[3]
    assert drawn[0] == generator(1, "positions", "a").integers(0, 10_000, 100).tolist()
    assert draw_windows(index, 100, 7, 1, "a")["window"].tolist() == generator(1, "windows", "a").integers(0, 1428, 100).tolist()


def test_more_draws_than_tokens(tmp_path):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3], [13]))
    assert len(draw_positions(index, 13, 1, "a")) == 13 and len(draw_windows(index, 4, 3, 1, "a")) == 4
    with pytest.raises(InputError) as error:
        draw_positions(index, 14, 1, "a")
    assert str(error.value) == f"{tmp_path}/train: n = 14 draws from m = 13 tokens; expected n <= m"
    with pytest.raises(InputError) as error:
        draw_windows(index, 5, 3, 1, "a")
    assert str(error.value) == f"{tmp_path}/train: n = 5 draws from 4 windows of 3 tokens (m = 13); expected n <= windows"


def test_an_index_of_a_million_shards_is_drawn_from_in_seconds(tmp_path):
    tokens = np.random.default_rng(0).integers(1, 10**6, size=10**6)
    write_index(tmp_path / "train", tokens, tokens)
    began = time.perf_counter()
    frame = draw_positions(CorpusIndex(tmp_path / "train"), 10_000, 137, "text")
    assert time.perf_counter() - began < 10
    ends = np.cumsum(tokens)
    document, position = frame["document"].to_numpy(), frame["position"].to_numpy()
    assert ((position < ends[document]) & (position >= ends[document] - tokens[document])).all()


@pytest.mark.parametrize("sampling", [Sampling(n=20), Sampling(mode="window", n=5, window=4, context_length=8)])
def test_positions_file(tmp_path, sampling):
    index = CorpusIndex(write_index(tmp_path / "train", [10, 3, 9], [22]))
    path = tmp_path / "text.token.parquet"
    write_positions(path, index, sampling, 137, "text")
    frame = read_positions(path, index)
    sidecar = read_json(tmp_path / "text.token.json")
    assert sidecar["draws"] == len(frame) == sampling.n
    assert sidecar["m_tokens"] == (22 if sampling.mode == "token" else 20) and sidecar["index_m_tokens"] == 22
    expected = draw_positions(index, 20, 137, "text") if sampling.mode == "token" else draw_windows(index, 5, 4, 137, "text")
    pd.testing.assert_frame_equal(frame, expected)
    first = path.read_bytes()
    write_positions(path, index, sampling, 137, "text")
    assert path.read_bytes() == first

    other = CorpusIndex(write_index(tmp_path / "other", [10, 3, 10], [23]))
    with pytest.raises(InputError, match=f"^{path}: drawn from a corpus of 22 tokens, but {tmp_path}/other has 23$"):
        read_positions(path, other)
    moved = CorpusIndex(write_index(tmp_path / "moved", [1] * 22, [22]))
    with pytest.raises(InputError, match=f"^{path}: its documents are not those of {tmp_path}/moved$"):
        read_positions(path, moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.iloc[::-1], "20 draws out of order or incomplete; expected draws 0 to 19 in order"),
        (lambda frame: frame.iloc[:-1], "19 draws out of order or incomplete; expected draws 0 to 19 in order"),
        (
            lambda frame: frame.astype({"position": np.int32}),
            "columns draw int64, position int32, document int64; expected draw, position, document, all int64",
        ),
        (lambda frame: frame[["draw", "position"]], "columns draw int64, position int64; expected draw, position, document, all int64"),
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
    write_json(tmp_path / "text.token.json", sidecar | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    with pytest.raises(InputError) as error:
        read_positions(path, index)
    assert message in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- windows


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=25), window_tokens=st.integers(1, 30), more=st.integers(0, 30))
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
            assert all(position - start >= more or start == starts[document] for position in range(first, stop))
            scored += range(first, stop)
    assert scored == list(range(windows * window_tokens))
    with pytest.raises(InputError, match=f"^window {windows} of {window_tokens} tokens is outside the corpus of {len(owner)} tokens$"):
        window_segments(windows, window_tokens, context_length, ends)


def test_window_segments_by_hand():
    # Documents 0..3, 4..5, 6..15; window 1 of 4 tokens is 4..7, fed from position 2 on.
    ends = np.array([4, 6, 16], "<u8")
    assert window_segments(1, 4, 6, ends) == [Segment(1, 4, 4, 6), Segment(2, 6, 6, 8)]
    assert window_segments(2, 4, 5, ends) == [Segment(2, 7, 8, 12)]
    assert window_segments(2, 4, 10, ends) == [Segment(2, 6, 8, 12)]
    with pytest.raises(InputError, match=r"^window of 4 tokens is longer than the context length 3$"):
        window_segments(0, 4, 3, ends)
