"""Sequences with and without structure, and the memorization of models trained on them (paper, 6.5)."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from support.messages import contexts_of
from support.runs import ARITHMETIC
from support.stores import write_store

from tokenbounds.codecs.decode import decode_message, encode_model, model_of
from tokenbounds.config.load import parse_config
from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.contexts import ContextRule
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.synthetic.integer_sequences import (
    DELIMITER,
    random_sequences,
    structured_sequences,
    write_sequences,
)
from tokenbounds.corpus.tokenizers import load_tokenizer, prepare_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.experiments.memorization import (
    IntegerCounts,
    count_right,
    measure_accuracy,
    write_accuracies,
)
from tokenbounds.models.folders import save_model
from tokenbounds.models.gpt import GPT
from tokenbounds.randomness import generator
from tokenbounds.reports.figures.memorization import summary, write_memorization_figure

VOCABULARY = [*"0123456789", DELIMITER, "<|endoftext|>"]
COMMA, EOT = 10, 11
SHAPE = {"layers": 1, "heads": 1, "width": 8}


# ---------------------------------------------------------------- sequences


@pytest.mark.parametrize(("complexity", "count"), list(enumerate((2, 8, 40, 189, 984, 5377))))
def test_number_of_sequences_of_each_complexity(complexity, count):
    """The paper trains on 984 sequences of complexity 4 (B.6)."""
    sequences = structured_sequences(complexity)
    assert len(sequences) == len(set(sequences)) == count
    assert {len(sequence) for sequence in sequences} == {30}
    assert sequences == sorted(sequences)


def trees(operators):
    """Every expression tree of so many operators, as Python source of a function of i."""
    if operators == 0:
        return ["i", "2"]
    parts = [(a, b) for left in range(operators) for a in trees(left) for b in trees(operators - 1 - left)]
    return [
        form.format(a=a, b=b)
        for a, b in parts
        for form in ("({a} + {b})", "({a} * {b})", "(({a} // ({b})) if ({b}) else {a})")
    ]


def test_sequences_are_those_of_all_trees():
    seen = set()
    for operators in range(4):
        values = {tuple(eval(tree, {"i": i}) for i in range(7)) for tree in trees(operators)}
        assert structured_sequences(operators, 7) == sorted(values - seen)
        seen |= values


def test_integers_do_not_overflow():
    assert max(max(sequence) for sequence in structured_sequences(2, 10**4)) == (10**4 - 1) ** 3
    assert max(sequence[-1] for sequence in structured_sequences(5)) == 29**6
    assert all(type(value) is int for sequence in structured_sequences(5) for value in sequence)


def test_random_sequences_are_uniform_draws_of_the_distinct_integers():
    structured = structured_sequences(4)
    integers = {value for sequence in structured for value in sequence}
    assert len(integers) == 2130
    drawn = random_sequences(structured, generator(137, "test"))
    assert (len(drawn), {len(sequence) for sequence in drawn}) == (984, {30})
    values = [value for sequence in drawn for value in sequence]
    assert set(values) <= integers
    assert all(type(value) is int for value in values)
    # 29,520 draws from 2130 integers are 13.86 of each; chi-squared with 2129 degrees of freedom has standard
    # deviation 65.
    counts = np.array([values.count(integer) for integer in sorted(integers)])
    assert abs(((counts - counts.mean()) ** 2).sum() / counts.mean() - 2129) < 4 * 65
    assert len({sequence[0] for sequence in drawn}) > 700  # of the structured ones, a handful
    assert (
        drawn
        == random_sequences(structured, generator(137, "test"))
        != random_sequences(structured, generator(138, "test"))
    )


def corpus(**sequences):
    return Corpus.model_validate(
        {"source": {"sequences": sequences}, "tokenizer": {"vocabulary": VOCABULARY}}
    )


@pytest.mark.parametrize("random", [False, True])
def test_text_comes_back_from_the_tokens(tmp_path, random):
    options = corpus(complexity=2, length=9, random=random).source.sequences
    write_sequences(tmp_path / "a.jsonl", options, 137, "numbers")
    write_sequences(tmp_path / "b.jsonl", options, 137, "numbers")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    sequences = [tuple(map(int, text.split(DELIMITER))) for text in texts]
    assert (sequences == structured_sequences(2, 9)) != random
    prepare_tokenizer(corpus(complexity=2), tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (12, EOT)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.tolist() == [VOCABULARY.index(character) for character in text]
        assert tokenizer.decode(ids) == text


# ---------------------------------------------------------------- memorization


def tokens(text):
    return np.array([*(VOCABULARY.index(character) for character in text), EOT], np.uint16)


def test_an_integer_needs_all_its_digits_and_what_ends_it():
    document = tokens("12,345,6")  # 1 2 , 3 4 5 , 6 EOT
    right = np.zeros(9, np.int64)
    assert count_right([document], [right], COMMA) == IntegerCounts(2, 2, 2)
    for place, expected in enumerate((2, 2, 2, 1, 1, 1, 1, 1, 1)):  # the first integer is not counted
        ranks = right.copy()
        ranks[place] = 1
        assert count_right([document], [ranks], COMMA).right == expected
    assert count_right([tokens("7")], [np.zeros(2)], COMMA) == IntegerCounts(0, 0, 0)


def test_attainable_is_what_a_function_of_the_beginning_can_reach():
    documents = [tokens(text) for text in ("0,1,5", "0,1,6", "0,2,6", "3,1,6")]
    # After "0," come 1, 1, 2; after "0,1," come 5, 6; the other three beginnings are each one document's.
    assert count_right(documents, [np.ones(6)] * 4, COMMA) == IntegerCounts(0, 8, 2 + 1 + 1 + 1 + 1)


class Successor(torch.nn.Module):
    """Predicts that the token after t is t + 1 (mod 12), with certainty; after EOT, a tie of all tokens."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def hidden(self, ids):
        states = torch.nn.functional.one_hot((ids + 1) % 12, 12).float()
        return states * (ids != EOT)[..., None]

    def head(self, hidden):
        return 9 * hidden


@pytest.mark.parametrize("start_token", ["first", "always"])
def test_accuracy_of_a_model_whose_predictions_are_known(tmp_path, start_token):
    # 4 for the delimiter: after it the model says 5, and after 10 EOT. "5 6 7 8 9 10 EOT" is right; "5 EOT"
    # and "6 4" are not.
    store = write_store(
        tmp_path, [[3, 4, 5, 6, 7, 8, 9, 10], [3, 4, 5], [3, 4, 6, 4, 5, 6, 7, 8, 9, 10]], 12, EOT
    )
    counts = measure_accuracy(Successor(), store, 4, ContextRule(12, start_token, EOT), arithmetic=ARITHMETIC)
    assert (counts.right, counts.integers) == (2, 4)


def test_a_tie_is_not_right(tmp_path):
    store = write_store(tmp_path, [[5, 10, 3]], 12, EOT)
    model = Successor()
    model.head = lambda hidden: 0 * hidden
    assert measure_accuracy(
        model, store, 10, ContextRule(8, "always", EOT), arithmetic=ARITHMETIC
    ) == IntegerCounts(0, 1, 1)


def test_a_document_beyond_the_context_is_refused(tmp_path):
    store = write_store(tmp_path, [[1, 2, 3, 4, 5]], 12, EOT)
    with pytest.raises(
        InputError, match="toy: a document of 6 tokens is longer than the context_length 5 of the model"
    ):
        measure_accuracy(
            Successor(), store, COMMA, ContextRule(5, "always", EOT), arithmetic=ARITHMETIC, name="toy"
        )


@pytest.fixture
def trained(tmp_path):
    """Folder of a GPT with random weights, tokens and tokenizer."""
    texts = [DELIMITER.join(map(str, sequence)) for sequence in structured_sequences(1, 5)]
    write_store(tmp_path / "train", [tokens(text)[:-1].tolist() for text in texts], 12, EOT)
    prepare_tokenizer(corpus(complexity=1), tmp_path / "tokenizer")
    shape = {"layers": 1, "heads": 1, "width": 8, "context_length": 32}
    model, config = GPT.create(
        {"family": "gpt", "vocab_size": 12, "architecture": shape, "start_token": "always", "eot_id": EOT}, 3
    )
    save_model(tmp_path / "model", model, config, {})
    return tmp_path


def test_accuracy_is_that_of_the_decoded_model(trained):
    paths = [trained / name for name in ("model", "train", "tokenizer", "figure4.toy.csv")]
    written = write_accuracies(*paths, levels=[2, 100], method="uniform", arithmetic=ARITHMETIC, device="cpu")
    frame = pd.read_csv(paths[-1])
    pd.testing.assert_frame_equal(frame, written)
    assert frame["levels"].tolist() == [2, 100]
    assert (frame["integers"] == 8 * 4).all()
    assert (frame["accuracy"] == frame["right"] / 32).all()
    assert (frame["right"] <= frame["attainable"]).all()
    contexts = contexts_of(("document", 32))
    store = TokenStore(paths[1])
    for line in frame.itertuples():
        data = encode_model(
            paths[0], {"kind": "levels", "levels": line.levels, "method": "uniform"}, contexts
        )
        assert line.message_bytes == len(data)
        again = measure_accuracy(
            model_of(decode_message(data)),
            store,
            COMMA,
            ContextRule(32, "always", EOT),
            arithmetic=ARITHMETIC,
        )
        assert again.right == line.right
    sidecar = json.loads(paths[-1].with_suffix(".json").read_text())
    assert sidecar["config"] == {"levels": [2, 100], "method": "uniform"}


def test_figure_shows_mean_and_deviation_of_replicates(tmp_path):
    paths, labels = [], ["a", "a", "b"]
    for name, accuracy in (("m-0", 0.25), ("m-1", 0.75), ("n", 0.5)):
        paths.append(tmp_path / f"figure4.{name}.csv")
        lines = itertools.product([2, 5], [9], [int(4 * accuracy)], [4], [4], [accuracy], [1.0])
        columns = [
            "levels",
            "message_bytes",
            "right",
            "integers",
            "attainable",
            "accuracy",
            "attainable_accuracy",
        ]
        pd.DataFrame(lines, columns=columns).to_csv(paths[-1], index=False)
    data = summary(paths, labels)
    assert data["model"].tolist() == ["m-0", "m-0", "m-1", "m-1", "n", "n"]
    assert data["mean_accuracy"].tolist() == [0.5] * 6
    assert data["accuracy_deviation"][:4].tolist() == pytest.approx([np.sqrt(0.125)] * 4)
    assert data["accuracy_deviation"][4:].isna().all()
    outputs = {kind: tmp_path / f"figure4.{kind}" for kind in ("csv", "pdf", "png")}
    write_memorization_figure(paths, labels, **outputs)
    pd.testing.assert_frame_equal(pd.read_csv(outputs["csv"]), data)
    assert all(path.stat().st_size for path in outputs.values())


def test_figure_about_another_corpus_is_refused(tmp_path):
    config = {
        "run": "toy",
        "corpora": {"text": {"source": {"files": ["a.txt"]}, "tokenizer": {"vocabulary": VOCABULARY}}},
        "models": {
            "gpt": {
                "family": "gpt",
                "corpus": "text",
                "architecture": {"layers": 1, "heads": 1, "width": 8},
                "training": {"steps": 1, "warmup": 0},
            }
        },
        "codecs": {},
        "figures": {
            "figure4": {"kind": "memorization", "levels": [2], "series": [{"label": "a", "models": "gpt"}]}
        },
    }
    with pytest.raises(
        InputError, match=r"models\.gpt is trained on corpora\.text; expected a corpus of source"
    ):
        parse_config(config)
