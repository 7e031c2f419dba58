"""Resampled tokens come from the generator's distribution, and their bits are what the rules of docs/meaning.md say."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import tokenizers
import torch
from PIL import Image
from runs import EOT, SCHEMES, SEED, VOCAB, write_run
from stores import write_store

from tokenbounds.config import parse_config
from tokenbounds.corpus import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.files import read_json, write_json
from tokenbounds.hypothesis import context_rule, model_of, read_message
from tokenbounds.meaning_figure import (
    comparison,
    entropy_by_index,
    figure_data,
    index_edges,
    pearson,
    write_meaning_figure,
    write_meaning_table,
)
from tokenbounds.records import read_records
from tokenbounds.resampling import (
    Spellings,
    contexts,
    continuations,
    evaluate,
    quantiles,
    read_resampled,
    resample,
    rewritten,
    rewritten_bits,
    same_tokenizer_bits,
    shortened,
    write_scores,
)
from tokenbounds.scoring import ContextRule, score_items, token_items
from tokenbounds.sections import Corpus
from tokenbounds.tokenize import load_tokenizer, prepare_tokenizer


class Bigram(torch.nn.Module):
    """The next token's probabilities depend on the last token only, and are a given matrix."""

    def __init__(self, probabilities):
        super().__init__()
        self.log_p = torch.nn.Parameter(torch.tensor(np.log(probabilities), dtype=torch.float32))

    def hidden(self, ids):
        return self.log_p[ids]

    def head(self, hidden):
        return hidden


def distributions(count, seed=3):
    return np.random.default_rng(seed).dirichlet(np.full(count, 0.7), size=count).clip(1e-6)


# ---------------------------------------------------------------- drawing


def test_quantiles_are_those_of_the_distribution():
    log_p = torch.tensor([[0.25, 0.0, 0.5, 0.25]], dtype=torch.float64).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert quantiles(log_p, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_continuations_are_drawn_from_the_model():
    """Chi-square tests of the first token, and of the second given the first, at a level of 1e-3 each."""
    p, n = distributions(5), 20000
    p[:, 0] = 0.0001  # rarely ends
    p /= p.sum(axis=1, keepdims=True)
    inputs = [np.array([1, 2])] * n
    uniforms = np.random.default_rng(1).random((n, 2))
    drawn, log2_q = continuations(Bigram(p), inputs, uniforms, eot_id=0, batch_tokens=512)
    first = np.array([tokens[0] for tokens in drawn])
    assert scipy.stats.chisquare(np.bincount(first, minlength=5)[1:], n * p[2, 1:] / p[2, 1:].sum() * (first > 0).mean()).pvalue > 1e-3
    pairs = [tokens for tokens in drawn if len(tokens) == 2 and tokens[0] == 3 and tokens[1] > 0]
    second = np.bincount([pair[1] for pair in pairs], minlength=5)[1:]
    assert len(pairs) > 500
    assert scipy.stats.chisquare(second, len(pairs) * p[3, 1:] / p[3, 1:].sum()).pvalue > 1e-3
    for tokens, value in itertools.islice(zip(drawn, log2_q, strict=True), 50):
        chain = [2, *tokens]
        assert value == pytest.approx(sum(math.log2(p[a, b]) for a, b in itertools.pairwise(chain)), abs=1e-4)


def test_a_continuation_ends_with_its_document():
    p = distributions(4)
    p[:, 0] = 1.0
    p /= p.sum(axis=1, keepdims=True)
    drawn, _ = continuations(Bigram(p), [np.array([1])] * 300, np.random.default_rng(2).random((300, 3)), eot_id=0, batch_tokens=64)
    assert {len(tokens) for tokens in drawn} == {1, 2, 3}
    for tokens in drawn:
        assert 0 not in tokens[:-1]
        assert tokens[-1] == 0 or len(tokens) == 3


def test_draws_do_not_depend_on_the_batch():
    p, rng = distributions(6), np.random.default_rng(4)
    inputs = [rng.integers(1, 6, rng.integers(1, 9)) for _ in range(40)]
    uniforms = rng.random((40, 2))
    results = [continuations(Bigram(p), inputs, uniforms, eot_id=0, batch_tokens=size) for size in (1, 7, 1000)]
    assert results[0][0] == results[1][0] == results[2][0]


def test_a_prediction_that_is_not_finite_is_refused():
    model = Bigram(np.full((3, 3), np.nan))
    with pytest.raises(InputError, match="g: a prediction is not finite"):
        continuations(model, [np.array([1])], np.zeros((1, 1)), eot_id=0, batch_tokens=8, name="g")


def test_contexts_stay_in_their_document(tmp_path):
    store = write_store(tmp_path / "train", [[1, 2, 3], [4, 5]], 10, 0)
    found = [(tokens.tolist(), start) for tokens, start in contexts(store, range(7), 2)]
    assert found == [([], True), ([1], True), ([1, 2], True), ([2, 3], False), ([], True), ([4], True), ([4, 5], True)]


def test_room_for_the_continuation():
    assert shortened(ContextRule(8, "first", 0), 3).length == 6
    with pytest.raises(InputError, match="g: a continuation of 9 tokens; expected at most the 8"):
        shortened(ContextRule(8, "first", 0), 9, "g")


# ---------------------------------------------------------------- the same tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run") / "run", {"token": SCHEMES["token"]})


def resampled_of(run, folder, **changes):
    folder.mkdir(exist_ok=True)
    options = {"name": "gpt.levels", "sampling": "token", "draws": 30, "tokens": 1, "seed": SEED, "batch_tokens": 64, "device": "cpu"}
    inputs = (run / "messages/gpt.levels.bin", run / "positions/text.token.parquet", run / "tokens/text/train")
    path = folder / "r.parquet"
    resample(*inputs, path, path.with_suffix(".json"), **(options | changes))
    return path


def test_resampling_is_seeded(run, tmp_path):
    first, again, other = (resampled_of(run, tmp_path / str(i), seed=seed) for i, seed in enumerate((SEED, SEED, SEED + 1)))
    assert first.read_bytes() == again.read_bytes()
    assert read_resampled(first)["tokens"] != read_resampled(other)["tokens"]
    drawn = pd.read_parquet(run / "positions/text.token.parquet")["position"][:30]
    assert read_resampled(first)["position"].tolist() == drawn.tolist()
    assert read_json(first.with_suffix(".json"))["config"] == {"sampling": "token", "draws": 30, "tokens": 1}


def test_more_draws_than_there_are(run, tmp_path):
    with pytest.raises(InputError, match=r"text\.token\.parquet: 40 draws; expected at least 41"):
        resampled_of(run, tmp_path, draws=41)


def test_resampled_tokens_that_were_edited(run, tmp_path):
    path = resampled_of(run, tmp_path)
    frame = pd.read_parquet(path)
    frame.loc[0, "log2_q"] = -1.0
    frame.to_parquet(path, index=False)
    with pytest.raises(InputError, match=r"r\.parquet: changed since it was written"):
        read_resampled(path)


def test_bits_are_those_of_a_corpus_with_the_token_in_place(run, tmp_path):
    """The corpus is written again with the drawn token at the drawn position; its ordinary score is the resampled bits."""
    message = read_message(run / "messages/gpt.levels.bin")
    model, rule = model_of(message), context_rule(message, "token")
    store = TokenStore(run / "tokens/text/train")
    resampled = read_resampled(resampled_of(run, tmp_path))
    bits = same_tokenizer_bits(model, store, resampled, rule, tokens=1, batch_tokens=64)
    everything, checked = store.tokens(0, store.m).astype(int), 0
    for draw, (position, tokens) in enumerate(zip(resampled["position"], resampled["tokens"], strict=True)):
        changed = everything.copy()
        if changed[position] == EOT or tokens == [EOT]:
            continue  # documents would be others
        changed[position] = tokens[0]
        pieces = np.split(changed, np.flatnonzero(changed == EOT) + 1)[:-1]
        other = write_store(tmp_path / f"store{draw}", [piece[:-1].tolist() for piece in pieces], VOCAB, EOT)
        ((log2_q, *_),) = score_items(model, list(token_items(other, [position], rule)), batch_tokens=64)
        assert bits[draw] == pytest.approx(-log2_q[0], abs=1e-5)
        checked += 1
    assert checked > 10


def test_bits_of_several_tokens_are_the_generators_own(run, tmp_path):
    """Scored in one pass by the model that drew them one after the other."""
    path = resampled_of(run, tmp_path, tokens=4)
    resampled = read_resampled(path)
    message = read_message(run / "messages/gpt.levels.bin")
    store = TokenStore(run / "tokens/text/train")
    rule = context_rule(message, "token")
    bits = same_tokenizer_bits(model_of(message), store, resampled, rule, tokens=4, batch_tokens=64)
    assert max(len(tokens) for tokens in resampled["tokens"]) == 4
    assert bits == pytest.approx(-pd.read_parquet(path)["log2_q"].to_numpy(), abs=1e-4)


# ---------------------------------------------------------------- another tokenizer


def prepared(folder, **section):
    prepare_tokenizer(Corpus(source={"files": ["x.txt"]}, tokenizer=section, eot="<eot>"), folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tokenizer of characters and a byte-level BPE that joins "ab", " c" and "abc", with their folders."""
    folder = tmp_path_factory.mktemp("tokenizers")
    characters = ["<eot>", "a", "b", "c", " ", "é"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<eot>", *alphabet, "ab", "Ġc", "abc"])}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b"), ("Ġ", "c"), ("ab", "c")]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.save(str(folder / "bpe.json"))
    return {
        "characters": prepared(folder / "characters", vocabulary=characters),
        "bpe": prepared(folder / "bpe", file=str(folder / "bpe.json")),
        "ids": vocabulary,
        "folder": folder,
    }


def encoded(tokenizer, text):
    return tokenizer.encode_batch([text])[0].astype(int).tolist()


def parts(pair, context, drawn, source="characters", target="bpe"):
    source, target = pair[source], pair[target]
    tokens = [*encoded(source, drawn.removesuffix("$")), *([source.eot_id] if drawn.endswith("$") else [])]
    found = rewritten(encoded(source, context), tokens, source, target)
    return None if found is None else [part.tolist() for part in found]


def test_rewritten(pair):
    a, c, ab, abc, space = (pair["ids"][piece] for piece in ("a", "c", "ab", "abc", "Ġ"))
    eot = pair["bpe"].eot_id
    assert parts(pair, "c", "c") == [[c], [], [c]]  # nothing joins
    assert parts(pair, "ca", "b") == [[c], [a], [ab]]  # the context's last token is replaced
    assert parts(pair, "cab", "c") == [[c], [ab], [abc]]
    assert parts(pair, "a ", "c") == [[a], [space], [pair["ids"]["Ġc"]]]
    assert parts(pair, "", "ab") == [[], [], [ab]]  # no context
    assert parts(pair, "ab", "$") == [[ab], [], [eot]]  # the document ends
    assert parts(pair, "a", "b$") == [[], [a], [ab, eot]]
    assert parts(pair, "ab", "c", source="bpe", target="characters") == [[1, 2], [], [3]]


def test_bytes_that_are_no_whole_character(pair):
    """Half of an é cannot be written in another vocabulary; the other half belongs to the continuation with all of the character."""
    first, second = encoded(pair["bpe"], "é")
    assert rewritten([pair["ids"]["a"]], [first], pair["bpe"], pair["characters"]) is None
    kept, replaced, added = rewritten([pair["ids"]["a"], first], [second], pair["bpe"], pair["characters"])
    assert (kept.tolist(), replaced.tolist(), added.tolist()) == ([1], [], [5])


def test_what_tokens_spell(pair):
    pieces = pair["bpe"].pieces()
    assert [pieces[pair["ids"][name]] for name in ("<eot>", "Ġc", "abc")] == [b"", b" c", b"abc"]
    assert sorted(pieces[1:257]) == [bytes([value]) for value in range(256)]
    assert pair["characters"].pieces() == [b"", b"a", b"b", b"c", b" ", "é".encode()]


def test_compatible_tokens(pair):
    spellings, ids = Spellings(pair["bpe"].pieces()), pair["ids"]
    assert set(spellings.compatible(b"a")) == {ids["a"], ids["ab"], ids["abc"]}
    assert set(spellings.compatible(b"ab")) == {ids["a"], ids["ab"], ids["abc"]}
    assert set(spellings.compatible(b" ")) == {ids["Ġ"], ids["Ġc"]}
    every = [token for token, piece in enumerate(spellings.pieces) if piece]
    for text in (b"a", b"ab", b"abca", b"\xff", b" c"):
        expected = [token for token in every if spellings.pieces[token].startswith(text) or text.startswith(spellings.pieces[token])]
        assert sorted(spellings.compatible(text)) == expected


@pytest.fixture(scope="module")
def two(pair, tmp_path_factory):
    """A store of characters, a bigram model of BPE tokens and its probabilities."""
    documents = [encoded(pair["characters"], text) for text in ("cab ca", "abcab c", "é c")]
    store = write_store(tmp_path_factory.mktemp("store") / "train", documents, pair["characters"].vocab_size, 0)
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
        "tokens": [[characters["b"]], [characters["a"], characters["b"]], [pair["characters"].eot_id], [characters["c"]]],
    }
    bits = rewritten_bits(model, store, resampled, ContextRule(16, "first", ids["<eot>"]), pair["characters"], pair["bpe"], batch_tokens=32)
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
        bits = rewritten_bits(model, store, resampled, rule, pair["characters"], pair["bpe"], batch_tokens=64)
        assert (bits >= 0).all()


def test_bits_are_not_less_than_those_of_the_text(pair, two):
    """Against the probability of the text itself, summed over all ways to spell it: P(text goes on so) / P(text begins so)."""
    store, model, p = two
    pieces, target = pair["bpe"].pieces(), pair["bpe"]

    def begins(last, text):
        """Probability that what follows the token `last` spells a text that begins with `text`."""
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
        (bits,) = rewritten_bits(model, store, resampled, rule, pair["characters"], target, batch_tokens=64)
        kept, replaced, _ = rewritten(everything[:position], [token], pair["characters"], target)
        last = int(kept[-1]) if kept.size else target.eot_id
        before = b"".join(pieces[found] for found in replaced)
        after = before + pair["characters"].decode([token]).encode()
        assert bits >= -math.log2(begins(last, after) / begins(last, before)) - 1e-4


def test_a_context_that_is_longer_in_the_other_tokens(pair, tmp_path):
    """What the model sees is cut to its own length, in its own tokens."""
    store = write_store(tmp_path / "train", [[pair["ids"]["abc"]] * 6], pair["bpe"].vocab_size, 0)
    p = distributions(pair["characters"].vocab_size)
    p /= p.sum(axis=1, keepdims=True)
    resampled = {"position": np.array([5]), "tokens": [[pair["ids"]["ab"]]]}
    bits = rewritten_bits(Bigram(p), store, resampled, ContextRule(4, "always", 0), pair["bpe"], pair["characters"], batch_tokens=16)
    assert bits[0] == pytest.approx(-math.log2(p[3, 1]) - math.log2(p[1, 2]), abs=1e-4)


# ---------------------------------------------------------------- evaluation


def test_evaluation(run, tmp_path):
    """Perplexity and accuracy are those of the ordinary records; the tokenizer must be the model's."""
    path = resampled_of(run, tmp_path)
    tokenizer, store = run / "tokens/text/tokenizer", run / "tokens/text/train"
    options = {"sampling": "token", "draws": 30, "tokens": 1, "batch_tokens": 64, "device": "cpu"}
    draws = run / "positions/text.token.parquet"
    message = run / "messages/gpt.levels.bin"
    found = evaluate(message, tokenizer, path, store, tokenizer, [("text", draws, store, tokenizer)], name="gpt.levels", **options)
    records = read_records([run / f"risk/gpt.levels.text.token/{part:05d}.parquet" for part in range(2)])
    performance = found["downstream"]["text"]
    assert performance["perplexity"] == pytest.approx(2 ** -records["log2_q"][:30].mean(), rel=1e-5)
    assert performance["accuracy"] == pytest.approx(100 * (records["rank"][:30] == 0).mean())
    assert performance["perplexity_standard_error"] == pytest.approx(
        performance["perplexity"] * math.log(2) * records["log2_q"][:30].std(ddof=1) / math.sqrt(30), rel=1e-4
    )
    bits = -pd.read_parquet(path)["log2_q"]
    assert found["objective_bits"] == pytest.approx(bits.mean(), abs=1e-5)
    assert found["objective_standard_error"] == pytest.approx(bits.std() / math.sqrt(30), abs=1e-5)
    assert (found["scored"], found["left_out"]) == (30, 0)

    other = tmp_path / "other"
    other.mkdir()
    write_json(other / "info.json", read_json(tokenizer / "info.json") | {"sha256": "1" * 64})
    with pytest.raises(InputError, match="other: another tokenizer"):
        evaluate(message, tokenizer, path, store, tokenizer, [("text", draws, store, other)], name="gpt.levels", **options)
    write_scores(tmp_path / "s.json", [("gpt.levels", message, tokenizer)], path, store, tokenizer, [], **options)
    (score,) = read_json(tmp_path / "s.json")["models"]
    assert (score["model"], score["codec"], score["objective_bits"]) == ("gpt", "levels", found["objective_bits"])


# ---------------------------------------------------------------- configuration

ROW = {"label": "G", "model": "gpt", "codec": "levels", "corpus": "text"}
GPT = {"family": "gpt", "corpus": "text", "architecture": {"layers": 1, "heads": 1, "width": 8}, "training": {"steps": 1, "warmup": 0}}
FIGURE = {
    "kind": "meaning",
    "entropy": ROW,
    "generator": ROW,
    "evaluated": [{"label": label, "model": "gpt", "codec": "levels"} for label in "abc"],
    "downstream": [{"label": "text", "metric": "perplexity", "corpus": "text"}],
    "table": "t",
}
PUBLISHED = {"label": "A", "metric": "accuracy", "published": {"gpt": 4}}


def parsed(changes):
    config = {
        "run": "r",
        "samplings": {"documents": {"mode": "document", "n": 5}},
        "corpora": {"text": {"source": {"files": ["a.txt"]}, "tokenizer": {"file": "tokenizer.json"}}},
        "models": {"gpt": GPT},
        "codecs": {"levels": {"kind": "levels"}, "zip": {"kind": "zip", "tool": "gzip"}},
        "tables": {"bounds": {"rows": [ROW]}},
        "figures": {"f": FIGURE | changes},
    }
    return parse_config(config, "run.yaml")


def test_a_figure_that_can_be_made():
    config = parsed({"downstream": [*FIGURE["downstream"], PUBLISHED], "source": "S"})
    assert config.all_tables == ["bounds", "t"]
    assert config.figures["f"].corpora == ["text"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"table": "bounds"}, "figures.f.table: 'bounds' is one of `tables`"),
        ({"evaluated": FIGURE["evaluated"][:2]}, "figures.f.evaluated: .*at least 3 items"),
        ({"evaluated": [*FIGURE["evaluated"], FIGURE["evaluated"][0]]}, "evaluated: a label occurs twice"),
        ({"evaluated": [*FIGURE["evaluated"], {"label": "d", "model": "gtp", "codec": "levels"}]}, r"evaluated\[3\].model: 'gtp'.*'gpt'"),
        ({"evaluated": [*FIGURE["evaluated"], {"label": "d", "model": "gpt", "codec": "zip"}]}, r"evaluated\[3\].codec: 'zip'"),
        ({"downstream": [{"label": "A", "metric": "accuracy", "corpus": "txt"}]}, r"downstream\[0\].corpus: 'txt'.*'text'"),
        ({"downstream": [{"label": "A", "metric": "accuracy"}]}, "exactly one of corpus, published is needed"),
        ({"downstream": [PUBLISHED | {"published": {"gtp": 4}}], "source": "S"}, "downstream 'A': values of gtp; expected those of gpt"),
        ({"downstream": [PUBLISHED]}, "`source`"),
        ({"source": "S"}, "`source`"),
        ({"downstream": 2 * FIGURE["downstream"]}, "downstream: a label and metric occur twice"),
        ({"generator": ROW | {"model": ["gpt", "gpt"]}}, "generator 'G': 2 models and 1 codecs; expected one of each"),
        ({"generator": ROW | {"sampling": "documents"}}, "generator.sampling: a scheme of mode document; expected single tokens"),
        ({"entropy": ROW | {"sampling": "documents"}}, "entropy.sampling: a scheme of mode document; expected single tokens or windows"),
        ({"draws": 10001}, "figures.f.draws: 10001; expected at most the n of its sampling scheme, 10000"),
        ({"tokens": 1025}, "figures.f.tokens: 1025; expected at most the context_length of its sampling scheme, 1024"),
    ],
)
def test_a_figure_that_cannot(changes, line):
    with pytest.raises(InputError, match=line) as caught:
        parsed(changes)
    assert str(caught.value).startswith("run.yaml: ") and "\n" not in str(caught.value)


# ---------------------------------------------------------------- figure and table

LABELS = ["S", "M", "L"]
DOWNSTREAM = [
    {"label": "A", "metric": "perplexity", "published": {"s": 40.0, "m": 30.0, "l": 10.0}},
    {"label": "B", "metric": "perplexity", "corpus": "b"},
    {"label": "A", "metric": "accuracy", "published": {"s": 50.0, "m": 60.0, "l": 61.0}},
]


def evaluations():
    measured = [60.0, 20.0, 10.0]
    return [
        {
            "model": name,
            "parameters": size,
            "objective_bits": bits,
            "objective_standard_error": 0.1,
            "scored": 9,
            "left_out": 1,
            "downstream": {"b": {"perplexity": value, "perplexity_standard_error": 0.5}},
        }
        for name, size, bits, value in zip("sml", (100, 200, 400), (5.0, 4.5, 4.4), measured, strict=True)
    ]


def test_pearson():
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 20))
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert math.isnan(pearson([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]))


def test_comparison():
    data, correlations = comparison(evaluations(), LABELS, DOWNSTREAM)
    assert data["mean PPL"].tolist() == [50.0, 25.0, 10.0]
    assert data["mean ACC"].tolist() == [50.0, 60.0, 61.0]
    assert data["B PPL standard error"].tolist() == [0.5] * 3
    assert correlations["mean PPL"] == pytest.approx(np.corrcoef([5.0, 4.5, 4.4], [50, 25, 10])[0, 1])
    assert correlations["A ACC"] == pytest.approx(np.corrcoef([5.0, 4.5, 4.4], [50, 60, 61])[0, 1])
    assert list(correlations) == ["A PPL", "B PPL", "mean PPL", "A ACC", "mean ACC"]


def test_table(tmp_path):
    paths = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    note = {"generator": "G", "corpus": "text", "draws": 30, "source": "Someone (2019)"}
    write_meaning_table(evaluations(), LABELS, DOWNSTREAM, "A caption.", note, **paths)
    data = pd.read_csv(paths["csv"])
    _, correlations = comparison(evaluations(), LABELS, DOWNSTREAM)
    assert data["label"].tolist() == ["S", "M", "L", "correlation"]
    assert data["parameters"].tolist()[:3] == [100, 200, 400]
    assert {name: data[name].iloc[-1] for name in correlations} == pytest.approx(correlations)
    text = paths["md"].read_text()
    assert "5.000 ± 0.100 |" in text and f"{correlations['mean PPL']:+.3f}" in text
    assert "measured on 30 drawn tokens of each corpus, as published by Someone (2019)" in text
    assert paths["tex"].read_text().count(r"\\") == 5


def test_index_edges():
    assert index_edges(1024) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1025]
    assert index_edges(64) == [0, 1, 2, 4, 8, 16, 32, 48, 64, 65]
    for longest in range(1, 40):
        edges = index_edges(longest)
        assert edges == sorted(set(edges)) and edges[0] == 0 and edges[-2:] == [longest, longest + 1]


def test_entropy_by_index():
    index = np.array([0, 0, 0, 3, 2, 8, 8, 5])
    entropy = np.array([1.0, 2.0, 6.0, 4.0, 5.0, 7.0, 9.0, 1.0])
    found = entropy_by_index(index, entropy, 8)
    assert found["entropy_bits"].tolist() == [3.0, 4.5, 8.0]  # one token alone has no standard error
    assert found["index"].tolist() == [0, 2.5, 8]
    assert found["standard_error"].tolist() == pytest.approx([np.std([1, 2, 6], ddof=1) / math.sqrt(3), 0.5, 1.0])
    with pytest.raises(InputError, match="a context of 8 tokens; expected at most 7"):
        entropy_by_index(index, entropy, 7)


def test_figure(run, tmp_path):
    records = [run / f"risk/gpt.levels.text.token/{part:05d}.parquet" for part in range(2)]
    paths = {suffix: tmp_path / f"f.{suffix}" for suffix in ("csv", "pdf", "png")}
    write_meaning_figure(records, False, 16, evaluations(), LABELS, DOWNSTREAM, ("E", "G"), **paths)
    numbers = pd.read_csv(paths["csv"])
    columns = read_records(records)
    histogram = numbers[numbers["panel"] == "histogram"]
    assert histogram["y"].sum() == len(columns["draw"])
    assert histogram["x_to"].max() == pytest.approx(columns["entropy_bits"].max())
    size = numbers[numbers["panel"] == "size"].set_index("series")
    assert size.loc["objective_bits", "y"].tolist() == [5.0, 4.5, 4.4]
    assert size.loc["mean PPL", "y"].tolist() == [50.0, 25.0, 10.0]
    data, _ = comparison(evaluations(), LABELS, DOWNSTREAM)
    assert figure_data(columns, 16, data).shape == numbers.shape
    with Image.open(paths["png"]) as image:
        pixels = np.asarray(image.convert("L"))
    assert 0.01 < (pixels < 200).mean() < 0.5
    assert paths["pdf"].read_bytes().startswith(b"%PDF")
