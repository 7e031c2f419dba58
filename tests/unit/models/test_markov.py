"""Markov chains: counted as by hand, coded and decoded bit for bit, scored as any model; and GPTs that see as
little."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.messages import contexts_of
from support.stores import random_documents, write_store

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import decode_message, model_of
from tokenbounds.codecs.encode import code_model
from tokenbounds.codecs.frame import decode, encode
from tokenbounds.config.schema import GPTModel
from tokenbounds.corpus.contexts import token_items
from tokenbounds.errors import InputError
from tokenbounds.models.folders import load_model, save_model
from tokenbounds.models.markov import chain_of, count_ngrams, quantize_counts, train_chain, training_documents
from tokenbounds.models.ngram_counts import MAX_COUNT
from tokenbounds.models.registry import context_length_of, new_model
from tokenbounds.scoring.reproducibility import reproducibility
from tokenbounds.scoring.score import score_items
from tokenbounds.training.batches import sample
from tokenbounds.training.loop import train

VOCAB, EOT, FLOOR_BITS = 12, 3, 20
SCHEME = {"mode": "token", "context_length": 16}
CONTEXTS = contexts_of(("token", 16))
ARITHMETIC = CONTEXTS["arithmetic"]
ORDERS = [0, 1, 2, 4, 7]


def words(rng, documents=30, longest=15):
    """Documents of few different tokens, so that contexts recur; EOT is not among them."""
    return [
        (rng.integers(4, VOCAB, size=rng.integers(1, longest)) ** 2 % VOCAB | 4).clip(4, VOCAB - 1).tolist()
        for _ in range(documents)
    ]


def by_hand(documents, order, vocab_size=VOCAB, eot_id=EOT):
    """(context and next token) -> how often, one token at a time."""
    counts = Counter()
    for document in documents:
        padded = [vocab_size] * order + [*document, eot_id]
        counts.update(tuple(padded[i : i + order + 1]) for i in range(len(document) + 1))
    return counts


def stream(documents, eot_id=EOT):
    return np.array([token for document in documents for token in [*document, eot_id]], np.uint16)


def chain(documents, order, start_token="first"):
    ngrams, counts = count_ngrams(stream(documents), order, VOCAB, EOT)
    options = {"vocab_size": VOCAB, "eot_id": EOT, "start_token": start_token, "floor_bits": FLOOR_BITS}
    return chain_of(ngrams, quantize_counts(ngrams, counts), **options)


def probabilities(documents, order, context):
    """q after a context, from the counts by hand: the formula of the docstring."""
    floor, key = 2.0**-FLOOR_BITS, tuple(([VOCAB] * order + list(context))[len(context) :])
    followers = {gram[-1]: count for gram, count in by_hand(documents, order).items() if gram[:-1] == key}
    total = sum(followers.values())
    if not total:
        return [1 / VOCAB] * VOCAB
    return [(1 - floor) * followers.get(token, 0) / total + floor / VOCAB for token in range(VOCAB)]


@pytest.mark.parametrize("order", ORDERS)
def test_counts_are_those_by_hand(order):
    documents = words(np.random.default_rng(1))
    ngrams, counts = count_ngrams(stream(documents), order, VOCAB, EOT)
    expected = by_hand(documents, order)
    assert [tuple(row) for row in ngrams.tolist()] == sorted(expected)
    assert counts.tolist() == [expected[gram] for gram in sorted(expected)]


def test_unigram_and_bigram_probabilities_of_a_text():
    a, b = 4, 5
    documents = [[a, b, a, b, b], [a, a]]  # nine tokens, two of them EOT
    unigram, bigram = (chain(documents, order)[0] for order in (0, 1))
    floor = 2.0**-FLOOR_BITS

    def q(model, context, token):
        ids = torch.tensor([[EOT, *context]])
        return math.exp(torch.log_softmax(model.head(model.hidden(ids)[0, -1:]).double(), -1)[0, token])

    def expected(share):
        return pytest.approx((1 - floor) * share + floor / VOCAB, rel=1e-6)

    assert [q(unigram, [], token) for token in (a, b, EOT, 6)] == [
        expected(share) for share in (4 / 9, 3 / 9, 2 / 9, 0)
    ]
    assert [q(bigram, [a], token) for token in (a, b, EOT)] == [
        expected(share) for share in (1 / 4, 2 / 4, 1 / 4)
    ]
    assert [q(bigram, [b], token) for token in (a, b, EOT)] == [expected(1 / 3)] * 3
    assert [q(bigram, [], token) for token in (a, b)] == [
        expected(1),
        expected(0),
    ]  # both documents begin with a
    assert q(bigram, [7], a) == pytest.approx(1 / VOCAB, rel=1e-6)  # a context that was never seen


def test_quantized_counts_keep_the_probabilities():
    ngrams = np.array([[1, 1], [1, 2], [2, 1], [4, 1], [4, 2], [4, 4]], np.int32)
    assert quantize_counts(ngrams, np.array([6, 4, 9, 10**7, 10**6, 3])).tolist() == [
        3,
        2,
        1,
        MAX_COUNT,
        6554,
        1,
    ]
    large = np.array([10**7 + 19, 10**6 + 3, 17, 5, 5, 7])
    quantized = quantize_counts(ngrams, large).astype(np.int64)
    assert quantized.min() >= 1
    assert quantized.max() <= MAX_COUNT
    assert quantized[:2] / quantized[:2].sum() == pytest.approx(large[:2] / large[:2].sum(), rel=1e-4)
    assert quantized[3:].tolist() == [5, 5, 7]


# ---------------------------------------------------------------- the message

texts = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=12)


@given(texts, st.integers(0, 6), st.integers(4, 7))
@settings(max_examples=60, deadline=None)
def test_message_round_trip(documents, order, vocab_size):
    eot_id = vocab_size - 1
    documents = [[token for token in document if token != eot_id] for document in documents]
    ngrams, counts = count_ngrams(stream(documents, eot_id), order, vocab_size, eot_id)
    assert dict(zip(map(tuple, ngrams.tolist()), counts.tolist(), strict=True)) == by_hand(
        documents, order, vocab_size, eot_id
    )
    tensors = {"ngrams": ngrams, "counts": quantize_counts(ngrams, counts)}
    data = encode(tensors, {}, codec={"kind": "counts", "vocab_size": vocab_size, "eot_id": eot_id})
    decoded = decode(data)
    assert sum(decoded.section_bytes.values()) == len(data)
    for name, tensor in tensors.items():
        assert decoded.tensors[name].dtype == np.int32
        assert np.array_equal(decoded.tensors[name], tensor)


@pytest.fixture
def tensors():
    documents = words(np.random.default_rng(2), documents=200)
    ngrams, counts = count_ngrams(stream(documents), 2, VOCAB, EOT)
    return {"ngrams": ngrams, "counts": quantize_counts(ngrams, counts)}


CODEC = {"kind": "counts", "vocab_size": VOCAB, "eot_id": EOT}


def test_message_is_a_fraction_of_16_bits_per_count_and_the_keys(tensors):
    documents = words(np.random.default_rng(4), documents=3000)
    ngrams, counts = count_ngrams(stream(documents), 6, VOCAB, EOT)
    data = encode({"ngrams": ngrams, "counts": quantize_counts(ngrams, counts)}, {}, codec=CODEC)
    assert 8 * len(data) < 0.2 * len(counts) * (16 + 7 * math.log2(VOCAB))


def test_corrupt_messages_are_refused(tensors):
    """Every byte that the codec wrote is changed in turn, with a checksum that fits: never other n-grams, or
    another error than InputError."""
    import zlib

    data = encode(tensors, {}, codec=CODEC)
    header = sum(decode(data).section_bytes[name] for name in ("header",)) + 6
    outcomes = Counter()
    for position in range(header, len(data) - 4):
        for flip in (1, 0x80):
            bad = bytearray(data)
            bad[position] ^= flip
            bad[-4:] = zlib.crc32(bad[:-4]).to_bytes(4, "little")
            try:
                decoded = decode(bytes(bad))
            except InputError:
                outcomes["refused"] += 1
                continue
            # An accepted message is a message of other content: that content is coded as the same bytes.
            assert encode(decoded.tensors, {}, codec=CODEC) == bytes(bad)
            outcomes["another message"] += 1
    assert outcomes["refused"] > 0.5 * sum(outcomes.values())
    for size in range(len(data)):
        with pytest.raises(InputError):
            decode(data[:size])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"counts": t["counts"] * 2}, "common divisor"),
        (
            lambda t: t | {"counts": np.where(np.arange(t["counts"].size) == 0, 0, t["counts"])},
            "expected 1 to 65535",
        ),
        (lambda t: {name: value[::-1].copy() for name, value in t.items()}, "not in order"),
        (
            lambda t: {name: value[t["ngrams"][:, 1] != VOCAB] for name, value in t.items()},
            "an n-gram within a longer one",
        ),
        (
            lambda t: {name: value[t["ngrams"][:, 1] == VOCAB] for name, value in t.items()},
            "a context that nothing follows",
        ),
        (
            lambda t: {
                name: value[(t["ngrams"][:, :2] != t["ngrams"][1, 1:]).any(axis=1)]
                for name, value in t.items()
            },
            "that nothing follows",
        ),
        (lambda t: t | {"ngrams": np.where(t["ngrams"] == VOCAB, VOCAB + 1, t["ngrams"])}, "outside 0..11"),
        (lambda t: t | {"counts": t["counts"].astype(np.float32)}, "expected an array of integers"),
        (lambda t: {"counts": t["counts"]}, "expected ngrams"),
    ],
)
def test_arrays_that_are_no_chain_are_not_coded(tensors, change, message):
    with pytest.raises(InputError, match=message):
        encode(change(tensors), {}, codec=CODEC)


@pytest.mark.parametrize(
    "change", [{"vocab_size": 1}, {"eot_id": VOCAB}, {"eot_id": True}, {"vocab_size": 2**25}]
)
def test_bad_options(tensors, change):
    with pytest.raises(InputError, match="expected an integer"):
        encode(tensors, {}, codec=CODEC | change)


# ---------------------------------------------------------------- as a model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start_token", ["first", "always"])
def test_scored_from_its_message_as_the_formula_says(tmp_path, order, start_token):
    rng = np.random.default_rng(3)
    trained, other = words(rng), words(rng, documents=12)
    store = write_store(tmp_path / "tokens", other, VOCAB, EOT)
    model, config = chain(trained, order, start_token)
    save_model(tmp_path / "model", model, config, {})
    data, _ = code_model(tmp_path / "model", {"kind": "counts"}, CONTEXTS, name="m", seed=1)
    message = decode_message(data)
    rule = context_rule(message, SCHEME)
    assert rule.length == context_length_of(config) == order
    items = list(token_items(store, np.arange(store.m), rule))
    assert max(item.ids.size for item in items) <= max(order, 1)
    decoded = model_of(message)
    scored = score_items(decoded, items, arithmetic=ARITHMETIC)
    i = 0
    for document in other:
        for end, token in enumerate([*document, EOT]):
            q = probabilities(trained, order, document[max(0, end - order) : end])
            log2_q, rank, entropy = (column[0] for column in scored[i])
            assert log2_q == pytest.approx(
                math.log2(q[token]), abs=4e-6
            )  # two float32 roundings of numbers below 32
            assert rank == sum(value >= q[token] * (1 - 1e-9) for value in q) - 1
            assert entropy == pytest.approx(-sum(value * math.log2(value) for value in q), abs=1e-5)
            i += 1
    assert i == len(items)
    assert reproducibility(decoded, items, scored, arithmetic=ARITHMETIC, seed=1, stream="s").bitwise
    whole = token_items(
        store, np.arange(store.m), type(rule)(16, start_token, EOT)
    )  # longer input: only the last tokens count
    for one, longer in zip(scored, score_items(decoded, list(whole), arithmetic=ARITHMETIC), strict=True):
        assert one[0] == longer[0]


def test_saved_and_loaded(tmp_path):
    model, config = chain(words(np.random.default_rng(6)), 2)
    save_model(tmp_path, model, config, {})
    loaded, loaded_config = load_model(tmp_path)
    assert loaded_config == config
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), model.parameters(), strict=True))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.int32}
    message = decode_message(
        encode(
            {
                "ngrams": np.zeros(model.ngrams.shape, np.float32),
                "counts": np.ones(len(model.counts), np.float32),
            },
            {"hypothesis": config, "contexts": CONTEXTS},
            codec={"kind": "float16"},
            layout=lambda config: model.layout(),
        )
    )
    with pytest.raises(InputError, match=r"'ngrams' has type torch.float32, expected torch.int32"):
        model_of(message)


def test_unsorted_ngrams_of_a_folder_are_refused():
    model, _ = chain(words(np.random.default_rng(6)), 1)
    model.ngrams.copy_(model.ngrams.flip(0))
    with pytest.raises(InputError, match="not in ascending order"):
        model.head(model.hidden(torch.tensor([[5, 6]])))


def test_trained_on_whole_documents(tmp_path):
    store = write_store(tmp_path, random_documents(np.random.default_rng(7), 60), shards=3)
    starts = set()
    for seed in range(40):
        start, stop = training_documents(store, 200, seed, "text")
        assert start in {0, *store.ends.tolist()}
        inside = [end for end in store.ends.tolist() if start < end <= stop]
        assert inside[-1] == stop
        assert stop - start >= 200 > ([0, *inside][-2] - start)  # the fewest documents that are enough
        starts.add(start)
    assert len(starts) > 10
    assert training_documents(store, store.m, 1, "text") == (0, store.m)
    options = {"start_token": "first", "floor_bits": FLOOR_BITS, "seed": 5, "corpus_name": "text"}
    model, config, start, stop = train_chain(store, order=1, tokens=200, **options)
    ngrams, counts = count_ngrams(store.tokens(start, stop), 1, store.vocab_size, store.eot_id)
    assert np.array_equal(model.ngrams.numpy(), ngrams)
    assert config["ngrams"] == len(counts)
    with pytest.raises(InputError, match=f"{store.m + 1} training tokens of a corpus of {store.m}"):
        train_chain(store, order=1, tokens=store.m + 1, **options)
    with pytest.raises(InputError, match="whole documents"):
        count_ngrams(np.array([1, 2, 3], np.uint16), 1, 50, 0)


# ---------------------------------------------------------------- GPTs that see as little

ARCHITECTURE = {"layers": 2, "heads": 2, "width": 16, "context_length": 16}


def restricted(last_tokens):
    config = {
        "family": "gpt",
        "vocab_size": VOCAB,
        "architecture": ARCHITECTURE,
        "start_token": "always",
        "eot_id": EOT,
    }
    return new_model(config | {"last_tokens": last_tokens}, 5)


@pytest.mark.parametrize("last_tokens", [0, 1, 2, 4])
def test_a_restricted_gpt_sees_its_last_tokens_only(tmp_path, last_tokens):
    model, config = restricted(last_tokens)
    save_model(tmp_path / "model", model, config, {})
    codec = {"kind": "levels", "levels": 65536, "method": "uniform", "codebook": "tensor"}
    data, _ = code_model(tmp_path / "model", codec, CONTEXTS, name="m", seed=1)
    message = decode_message(data)
    decoded, rule = model_of(message), context_rule(message, SCHEME)
    document = list(range(4, VOCAB)) * 2
    scores = []
    for changed in (None, *range(10)):
        tokens = [
            5 if i == changed and token != 5 else 6 if i == changed else token
            for i, token in enumerate(document)
        ]
        store = write_store(tmp_path / f"tokens{changed}", [tokens], VOCAB, EOT)
        (item,) = token_items(store, [10], rule)
        scores.append(score_items(decoded, [item], arithmetic=ARITHMETIC)[0][0][0])
    same = [score == scores[0] for score in scores[1:]]
    assert same == [position < 10 - last_tokens for position in range(10)]


def test_sample_without_context(tmp_path):
    store = write_store(tmp_path, random_documents(np.random.default_rng(8), 20), eot_id=0)
    ids, targets = sample(store, np.random.default_rng(1), 500, 0, torch.device("cpu"))
    assert ids.shape == targets.shape == (500, 1)
    assert (ids == store.eot_id).all()
    assert len(targets.unique()) > 40  # EOT among them
    assert (targets == 0).any()


class Watched:
    """A model's input lengths, seen by a hook."""

    def __init__(self, monkeypatch):
        from tokenbounds.models.gpt import GPT

        self.inputs, plain = [], GPT.hidden

        def hidden(model, ids):
            self.inputs.append(ids.clone())
            return plain(model, ids)

        monkeypatch.setattr(GPT, "hidden", hidden)


@pytest.mark.parametrize("last_tokens", [0, 3])
def test_training_shows_no_more_than_scoring(tmp_path, monkeypatch, last_tokens):
    store = write_store(tmp_path / "tokens", words(np.random.default_rng(9), 60), VOCAB, EOT)
    watched = Watched(monkeypatch)
    options = {
        "steps": 6,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "warmup": 2,
        "eval_every": 3,
        "eval_batches": 2,
        "dtype": "float32",
    }
    model = GPTModel(
        family="gpt", corpus="text", architecture=ARCHITECTURE, last_tokens=last_tokens, training=options
    )
    folders = {"out_dir": tmp_path / "out", "checkpoint_dir": tmp_path / "checkpoints"}
    train(model, name="m", seed=1, train_tokens=store, val_tokens=store, device="cpu", **folders)
    assert {tuple(ids.shape) for ids in watched.inputs} == {(32, max(last_tokens, 1))}
    if last_tokens == 0:
        assert all((ids == EOT).all() for ids in watched.inputs)
    _, config = load_model(tmp_path / "out")
    assert config["last_tokens"] == last_tokens
    assert context_length_of(config) == last_tokens


def test_a_gpt_without_context_learns_the_frequencies(tmp_path):
    documents = words(np.random.default_rng(10), 200)
    store = write_store(tmp_path / "tokens", documents, VOCAB, EOT)
    options = {
        "steps": 150,
        "batch_size": 256,
        "learning_rate": 1e-2,
        "warmup": 10,
        "eval_every": 150,
        "weight_decay": 0.0,
        "dtype": "float32",
    }
    model = GPTModel(family="gpt", corpus="text", architecture=ARCHITECTURE, last_tokens=0, training=options)
    folders = {"out_dir": tmp_path / "out", "checkpoint_dir": tmp_path / "checkpoints"}
    last = train(model, name="m", seed=1, train_tokens=store, val_tokens=store, device="cpu", **folders)
    shares = np.bincount(stream(documents)) / store.m
    entropy = -sum(share * math.log(share) for share in shares if share)
    assert last["val_loss_nats"] == pytest.approx(entropy, abs=0.05)
