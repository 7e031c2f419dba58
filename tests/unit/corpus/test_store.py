"""Index and token store: the joined sequence of all shards, and every damaged file named."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import EOT_ID, VOCAB, store_of, write_index, write_split

from tokenbounds.corpus import store as corpus
from tokenbounds.corpus.indexing import build_index
from tokenbounds.corpus.sampling import Segment, window_segments
from tokenbounds.corpus.store import CorpusIndex, TokenStore, token_dtype
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json

DOCUMENT = st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=12)
SHARDS = st.lists(st.lists(DOCUMENT, max_size=4), min_size=1, max_size=5).filter(any)


@settings(max_examples=60, deadline=None)
@given(shards=SHARDS, data=st.data())
def test_store_is_the_joined_sequence(tmp_path_factory, shards, data):
    store = store_of(tmp_path_factory.mktemp("store"), shards)
    documents = [[*ids, EOT_ID] for shard in shards for ids in shard]
    joined = [token for document in documents for token in document]
    owner = [number for number, document in enumerate(documents) for _ in document]
    start_of = [sum(map(len, documents[:number])) for number in owner]
    assert (store.m, store.documents, store.vocab_size, store.eot_id) == (
        len(joined),
        len(documents),
        VOCAB,
        EOT_ID,
    )
    start = data.draw(st.integers(0, store.m))
    stop = data.draw(st.integers(start, store.m))
    assert store.tokens(start, stop).tolist() == joined[start:stop]
    everywhere = np.arange(store.m)
    assert store.document_of(everywhere).tolist() == owner
    assert store.document_start(everywhere).tolist() == start_of
    for position in everywhere:
        before = joined[:position]
        assert store.document_start(position) == (
            position - before[::-1].index(EOT_ID) if EOT_ID in before else 0
        )


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
        with pytest.raises(
            InputError, match=f"train: position {position} is outside the corpus of 3 tokens$"
        ):
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
    with pytest.raises(
        InputError, match=f"train: token 3 has id {VOCAB}, outside the vocabulary of {VOCAB}$"
    ):
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
    """Make a sidecar agree with an edited shard, so that only the shard's content is wrong."""
    sidecar = read_json(path)
    for key, suffix in (("sha256", ".bin"), ("ends_sha256", ".ends.bin")):
        sidecar[key] = hashlib.sha256(path.with_suffix(suffix).read_bytes()).hexdigest()
    write_json(path, {**sidecar, **changes})


@pytest.mark.parametrize(
    ("change", "changes", "message"),
    [
        (set_token(1, VOCAB), {}, "00001.bin: token 1 has id 300, outside the vocabulary of 300"),
        (
            set_token(1, EOT_ID),
            {},
            "00001.bin: end-of-text tokens (id 0) are not where its .ends.bin says that documents end",
        ),
        (set_token(3, 5), {}, "00001.bin: 4 tokens in 0 documents, but its .ends.bin lists 1"),
        (set_token(1, 5), {"sha256": "0" * 64}, "00001.bin: changed since it was written (sha256 "),
        (set_token(1, 5), {"eot_id": 1}, "00001.json: eot_id 1, but 0 in "),
        (
            set_token(1, 5),
            {"tokenizer_sha256": "1" * 64},
            f"00001.json: tokenizer_sha256 {'1' * 64}, but {'0' * 64} in ",
        ),
        (
            set_token(1, 5),
            {"manifest_sha256": "1" * 64},
            f"00001.json: manifest_sha256 {'1' * 64}, but {'0' * 64} in ",
        ),
        (
            set_token(1, 5),
            {"roles_sha256": "1" * 64},
            f"00001.json: roles_sha256 {'1' * 64}, but {'0' * 64} in ",
        ),
        (
            set_token(1, 5),
            {"roles": {"train": 2, "val": 1, "tokenizer": 0}},
            "00001.json: roles {'train': 2, 'val': 1, 'tokenizer': 0}, but ",
        ),
        (
            set_token(1, 5),
            {"tokenizer_sha256": "u"},
            "00001.json: not a shard's sidecar (tokenizer_sha256 is u)",
        ),
        (set_token(1, 5), {"documents": -1}, "00001.json: not a shard's sidecar (documents is -1)"),
        (set_token(1, 5), {"skipped_documents": [7]}, ": 2 documents and 1 without text, expected 2 in all"),
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
    start = f"{folder}{message}" if message.startswith(":") else f"{folder}/{message}"
    assert str(error.value).startswith(start) and "\n" not in str(error.value)
    assert not (folder / "index.json").exists()
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
    with pytest.raises(
        InputError,
        match=r"^vocabulary of 4294967297 ids: expected 1 to 2\^32, the most that a uint32 token holds$",
    ):
        token_dtype(2**32 + 1)


def test_a_shard_that_is_given_twice(tmp_path):
    folder = tmp_path / "train"
    paths = write_split(folder, [[[5, 6]], [[7, 8, 9]]])
    with pytest.raises(InputError, match=r"00000\.json: shard 0 in .*, expected shard 1 in"):
        build_index([paths[0], paths[0]], folder)
    with pytest.raises(InputError, match=r"train: 1 shards given, expected 2$"):
        build_index(paths[:1], folder)
    # As a forger would: another name, another number, the files of the first.
    for suffix in (".bin", ".ends.bin"):
        (folder / f"00001{suffix}").write_bytes((folder / f"00000{suffix}").read_bytes())
    write_json(paths[1], read_json(paths[0]) | {"shard": 1})
    build_index(paths, folder)
    assert read_json(folder / "index.json")["duplicate_documents"] == 1
    write_json(paths[1], read_json(paths[0]))
    with pytest.raises(InputError, match=r"00001\.json: shard 0 in .*, expected shard 1 in"):
        build_index(paths, folder)


SHARD = {"name": "00000", "tokens": 3, "documents": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"m_tokens": 4},
            "m_tokens 4 and cumulative_tokens are not the sums of the shards' tokens, 3 in all",
        ),
        ({"m_tokens": 3.0}, "m_tokens is 3.0"),
        ({"m_tokens": True}, "m_tokens is True"),
        ({"m_tokens": -3}, "m_tokens is -3"),
        ({"m_tokens": 10**30}, f"m_tokens is {10**30}"),
        ({"cumulative_tokens": [0, 2]}, "m_tokens 3 and cumulative_tokens are not"),
        ({"cumulative_tokens": None}, "key 'cumulative_tokens' is missing"),
        ({"vocab_size": 70_000}, "dtype uint16 for a vocabulary of 70000, expected uint32"),
        ({"vocab_size": 0}, "eot_id 0 in a vocabulary of 0"),
        ({"dtype": None}, "key 'dtype' is missing"),
        ({"dtype": "float64"}, "dtype is float64"),
        ({"documents": 2}, "2 documents, but 1 in its shards, and 1 with text have the role train"),
        (
            {"roles": {"train": 2, "val": 0, "tokenizer": 0}},
            "1 documents, but 1 in its shards, and 2 with text",
        ),
        ({"roles": {"train": 1}}, "roles is {'train': 1}"),
        ({"manifest_sha256": "abc"}, "manifest_sha256 is abc"),
        ({"duplicate_documents": "1"}, "duplicate_documents is 1"),
        ({"repeated_contexts": {"share": 0.5}}, "repeated_contexts is {'share': 0.5}"),
        ({"remark": "free text"}, "key 'remark' is not one of an index"),
        ({"shards": []}, "shards is []"),
        ({"shards": [SHARD | {"name": "../../elsewhere"}]}, "shard '../../elsewhere' in place of 00000"),
        ({"shards": [SHARD, SHARD]}, "shard '00000' in place of 00001"),
        ({"shards": [SHARD | {"tokens": -1}]}, "shards is [{"),
        ({"shards": [SHARD | {"seen": 1}]}, "shards is [{"),
    ],
)
def test_index_edited_by_hand(tmp_path, change, message):
    folder = tmp_path / "train"
    store_of(folder, [[[5, 6]]])
    index = {
        key: value for key, value in (read_json(folder / "index.json") | change).items() if value is not None
    }
    write_json(folder / "index.json", index)
    with pytest.raises(InputError) as error:
        CorpusIndex(folder)
    found = str(error.value)
    assert found.startswith(f"{folder}/index.json: ") and message in found and "\n" not in found


@pytest.mark.parametrize("value", [None, [], "index", 3, [[1]]])
def test_an_index_that_is_no_object(tmp_path, value):
    store_of(tmp_path / "train", [[[5, 6]]])
    write_json(tmp_path / "train/index.json", value)
    with pytest.raises(InputError, match=r"index\.json: not an index of token shards \(found \w+, expected"):
        CorpusIndex(tmp_path / "train")


def test_ends_out_of_order(tmp_path):
    folder = tmp_path / "train"
    store_of(folder, [[[5, 6], [7], [8]]])
    ends = np.array([5, 3, 7], "<u8").tobytes()
    (folder / "ends.bin").write_bytes(ends)
    index = read_json(folder / "index.json") | {"ends_sha256": hashlib.sha256(ends).hexdigest()}
    write_json(folder / "index.json", index)
    with pytest.raises(InputError, match=r"ends\.bin: documents do not end in increasing order$"):
        CorpusIndex(folder)
