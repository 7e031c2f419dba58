"""Bits of continuations follow the rules of docs/downstream.md, and scores are those of ordinary records."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from support.resampled import Bigram, distributions, encoded, resampled_of
from support.runs import ARITHMETIC, EOT, SCHEMES, SEED, VOCAB, context_of
from support.stores import write_store

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import model_of, read_message
from tokenbounds.corpus.contexts import ContextRule, token_items
from tokenbounds.corpus.sampling import positions_of_stream
from tokenbounds.corpus.store import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.experiments.downstream import evaluate, rewritten_bits, same_tokenizer_bits, write_scores
from tokenbounds.experiments.resampling import read_resampled
from tokenbounds.experiments.rewriting import rewritten
from tokenbounds.io.files import read_json, write_json
from tokenbounds.scoring.score import score_items

SCHEME = context_of(SCHEMES["token"])

# ---------------------------------------------------------------- the same tokenizer


def test_bits_are_those_of_a_corpus_with_the_token_in_place(run, tmp_path):
    """The corpus is written again with the drawn token at the drawn position; its ordinary score is the
    resampled bits."""
    message = read_message(run / "messages/gpt.levels.bin")
    model, rule = model_of(message), context_rule(message, SCHEME)
    store = TokenStore(run / "tokens/text/train")
    resampled = read_resampled(resampled_of(run, tmp_path))
    bits = same_tokenizer_bits(model, store, resampled, rule, tokens=1, arithmetic=ARITHMETIC)
    everything, checked = store.tokens(0, store.m).astype(int), 0
    for draw, (position, tokens) in enumerate(zip(resampled["position"], resampled["tokens"], strict=True)):
        changed = everything.copy()
        if changed[position] == EOT or tokens == [EOT]:
            continue  # documents would be others
        changed[position] = tokens[0]
        pieces = np.split(changed, np.flatnonzero(changed == EOT) + 1)[:-1]
        other = write_store(tmp_path / f"store{draw}", [piece[:-1].tolist() for piece in pieces], VOCAB, EOT)
        ((log2_q, *_),) = score_items(
            model, list(token_items(other, [position], rule)), arithmetic=ARITHMETIC
        )
        assert bits[draw] == pytest.approx(-log2_q[0], abs=1e-5)
        checked += 1
    assert checked > 10


def test_bits_of_several_tokens_are_the_generators_own(run, tmp_path):
    """Scored in one pass by the model that drew them one after the other."""
    path = resampled_of(run, tmp_path, tokens=4)
    resampled = read_resampled(path)
    message = read_message(run / "messages/gpt.levels.bin")
    store = TokenStore(run / "tokens/text/train")
    rule = context_rule(message, SCHEME)
    bits = same_tokenizer_bits(model_of(message), store, resampled, rule, tokens=4, arithmetic=ARITHMETIC)
    assert max(len(tokens) for tokens in resampled["tokens"]) == 4
    assert bits == pytest.approx(-pd.read_parquet(path)["log2_q"].to_numpy(), abs=1e-4)


# ---------------------------------------------------------------- another tokenizer


@pytest.fixture(scope="module")
def two(pair, tmp_path_factory):
    """A store of characters, a bigram model of BPE tokens and its probabilities."""
    documents = [encoded(pair["characters"], text) for text in ("cab ca", "abcab c", "é c")]
    store = write_store(
        tmp_path_factory.mktemp("store") / "train", documents, pair["characters"].vocab_size, 0
    )
    p = distributions(pair["bpe"].vocab_size, seed=8)
    p /= p.sum(axis=1, keepdims=True)
    return store, Bigram(p), p


def test_bits_by_hand(pair, two):
    """Positions 2 ("c a|b"), 1 ("c|a") and 3 ("cab| "), and the end after the whole first document."""
    store, model, p = two
    ids = pair["ids"]
    characters = {name: encoded(pair["characters"], name)[0] for name in "abc "}
    resampled = {
        "position": np.array([2, 1, 6, 3]),
        "tokens": [
            [characters["b"]],
            [characters["a"], characters["b"]],
            [pair["characters"].eot_id],
            [characters["c"]],
        ],
    }
    bits = rewritten_bits(
        model,
        store,
        resampled,
        ContextRule(16, "first", ids["<eot>"]),
        pair["characters"],
        pair["bpe"],
        arithmetic=ARITHMETIC,
    )
    c, a, ab, abc, eot = (ids[name] for name in ("c", "a", "ab", "abc", "<eot>"))
    begins_with_a = p[c, a] + p[c, ab] + p[c, abc]
    assert bits[0] == pytest.approx(-math.log2(p[c, ab] / begins_with_a), abs=1e-4)
    assert bits[1] == pytest.approx(-math.log2(p[c, ab]), abs=1e-4)
    assert bits[2] == pytest.approx(-math.log2(p[a, eot]), abs=1e-4)
    assert bits[3] == pytest.approx(-math.log2(p[c, abc] / begins_with_a), abs=1e-4)


def test_no_bits_are_negative(pair, two):
    store, model, _ = two
    rule = ContextRule(16, "first", pair["ids"]["<eot>"])
    for position in range(store.m):
        tokens = [[token] for token in range(pair["characters"].vocab_size)]
        resampled = {"position": np.full(len(tokens), position), "tokens": tokens}
        bits = rewritten_bits(
            model, store, resampled, rule, pair["characters"], pair["bpe"], arithmetic=ARITHMETIC
        )
        assert (bits >= 0).all()


def test_bits_are_not_less_than_those_of_the_text(pair, two):
    """Against the probability of the text itself, summed over all ways to spell it: P(text goes on so) /
    P(text begins so)."""
    store, model, p = two
    pieces, target = pair["bpe"].pieces(), pair["bpe"]

    def begins(last, text):
        """Probability that the tokens after `last` spell a text that begins with `text`."""
        if not text:
            return 1.0
        total = 0.0
        for token, piece in enumerate(pieces):
            if piece and piece.startswith(text):
                total += p[last, token]
            elif piece and text.startswith(piece):
                total += p[last, token] * begins(token, text[len(piece) :])
        return total

    everything = store.tokens(0, 7).astype(int).tolist()  # the first document
    for position, token in itertools.product(range(1, 7), range(1, 5)):
        resampled = {"position": np.array([position]), "tokens": [[token]]}
        rule = ContextRule(16, "first", target.eot_id)
        (bits,) = rewritten_bits(
            model, store, resampled, rule, pair["characters"], target, arithmetic=ARITHMETIC
        )
        kept, replaced, _ = rewritten(everything[:position], [token], pair["characters"], target)
        last = int(kept[-1]) if kept.size else target.eot_id
        before = b"".join(pieces[old] for old in replaced)
        after = before + pair["characters"].decode([token]).encode()
        assert bits >= -math.log2(begins(last, after) / begins(last, before)) - 1e-4


def test_a_context_that_is_longer_in_the_other_tokens(pair, tmp_path):
    """The context of a model is cut to its own length, in its own tokens."""
    store = write_store(tmp_path / "train", [[pair["ids"]["abc"]] * 6], pair["bpe"].vocab_size, 0)
    p = distributions(pair["characters"].vocab_size)
    p /= p.sum(axis=1, keepdims=True)
    resampled = {"position": np.array([5]), "tokens": [[pair["ids"]["ab"]]]}
    bits = rewritten_bits(
        Bigram(p),
        store,
        resampled,
        ContextRule(4, "always", 0),
        pair["bpe"],
        pair["characters"],
        arithmetic=ARITHMETIC,
    )
    assert bits[0] == pytest.approx(-math.log2(p[3, 1]) - math.log2(p[1, 2]), abs=1e-4)


# ---------------------------------------------------------------- evaluation


def test_evaluation(run, tmp_path):
    """Perplexity and accuracy are those of the ordinary records; the tokenizer must be the model's."""
    path = resampled_of(run, tmp_path)
    tokenizer, store = run / "tokens/text/tokenizer", run / "tokens/text/train"
    options = {"scheme": SCHEME, "draws": 30, "tokens": 1, "seed": SEED, "device": "cpu"}
    message = run / "messages/gpt.levels.bin"
    scores = evaluate(
        message,
        tokenizer,
        path,
        store,
        tokenizer,
        [("text", store, tokenizer)],
        name="gpt.levels",
        **options,
    )
    positions = positions_of_stream(TokenStore(store), 30, SEED, "contexts", "text")
    model, rule = model_of(read_message(message)), context_rule(read_message(message), SCHEME)
    items = list(token_items(TokenStore(store), positions, rule))
    columns = score_items(model, items, arithmetic=ARITHMETIC)
    log2_q, ranks = (np.concatenate([item[i] for item in columns]) for i in (0, 1))
    performance = scores["downstream"]["text"]
    assert performance["perplexity"] == pytest.approx(2 ** -log2_q.mean(), rel=1e-5)
    assert performance["accuracy"] == pytest.approx(100 * (ranks == 0).mean())
    assert performance["perplexity_standard_error"] == pytest.approx(
        performance["perplexity"] * math.log(2) * log2_q.std(ddof=1) / math.sqrt(30), rel=1e-4
    )
    bits = -pd.read_parquet(path)["log2_q"]
    assert scores["objective_bits"] == pytest.approx(bits.mean(), abs=1e-5)
    assert scores["objective_standard_error"] == pytest.approx(bits.std() / math.sqrt(30), abs=1e-5)
    assert (scores["scored"], scores["left_out"]) == (30, 0)

    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "info.json", read_json(tokenizer / "info.json") | {"sha256": "1" * 64})
    with pytest.raises(InputError, match="other: another tokenizer"):
        evaluate(
            message,
            tokenizer,
            path,
            store,
            tokenizer,
            [("text", store, other)],
            name="gpt.levels",
            **options,
        )
    write_scores(
        tmp_path / "s.json", [("gpt.levels", message, tokenizer)], path, store, tokenizer, [], **options
    )
    (score,) = read_json(tmp_path / "s.json")["models"]
    assert (score["model"], score["codec"], score["objective_bits"]) == (
        "gpt",
        "levels",
        scores["objective_bits"],
    )
