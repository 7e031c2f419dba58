"""The shape of a computation is a function of what stands before the first scored token."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import random_documents, write_store

from tokenbounds.corpus.contexts import ContextRule, document_items, window_items
from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.scoring.score import score_items
from tokenbounds.scoring.shapes import batches, head_rows, padded_length, scored_logits

V, EOT = 50, 0
ARITHMETIC = {"dtype": "float32", "multiple": 8, "batch_tokens": 64}
CPU = torch.device("cpu")


class Watched(torch.nn.Module):
    """A model that notes the shapes in which it is computed."""

    def __init__(self, longest=None):
        super().__init__()
        self.weight, self.longest = torch.nn.Parameter(torch.zeros(V, V)), longest
        self.inputs, self.heads = [], []

    def hidden(self, ids):
        self.inputs.append(tuple(ids.shape))
        return self.weight[ids]

    def head(self, hidden):
        self.heads.append(len(hidden))
        return hidden


@pytest.mark.parametrize(
    ("length", "multiple", "longest", "padded"),
    [(1, 64, None, 64), (64, 64, None, 64), (65, 64, None, 128), (500, 64, 512, 512), (65, 64, 100, 100)],
)
def test_padded_length(length, multiple, longest, padded):
    assert padded_length(length, multiple, longest) == padded


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=60),
    st.integers(1, 300),
    st.integers(1, 70),
    st.none() | st.integers(100, 120),
    st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_batches_hold_every_input_once_in_equally_many_rows(sizes, batch_tokens, multiple, longest, shuffled):
    rng = np.random.default_rng(len(sizes))
    inputs = [rng.integers(1, V, size) for size in sizes]
    lengths = [int(rng.integers(size, 101)) for size in sizes]
    arithmetic, seen = {"multiple": multiple, "batch_tokens": batch_tokens}, []
    for numbers, rows, ids in batches(
        inputs, lengths, arithmetic, longest=longest, rng=rng if shuffled else None
    ):
        count, T = ids.shape
        assert count == max(1, batch_tokens // T)
        assert {padded_length(lengths[number], multiple, longest) for number in numbers} == {T}
        assert len(set(rows.tolist())) == len(rows) == len(numbers)
        for number, row in zip(numbers, rows, strict=True):
            assert (ids[row, : sizes[number]] == inputs[number]).all() and not ids[row, sizes[number] :].any()
        others = np.delete(ids, rows, axis=0)
        assert shuffled or not others.any()
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(sizes)))


def test_an_input_that_is_too_long_is_refused():
    arithmetic = {"multiple": 8, "batch_tokens": 64}
    with pytest.raises(
        InputError, match=r"tiny: an input of 9 tokens; expected at most 8, its padded length"
    ):
        list(batches([np.zeros(9, np.int64)], [9], arithmetic, longest=8, name="tiny"))


@pytest.fixture(scope="module")
def documents():
    return [[5], [7, 8], *random_documents(np.random.default_rng(3), 12), [9] * 40]


@pytest.fixture(scope="module")
def store(documents, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "train", documents, V, EOT)


@pytest.mark.parametrize("longest", [None, 20])
@pytest.mark.parametrize("start_token", ["first", "always"])
def test_windows_and_documents_are_computed_at_their_full_length(store, start_token, longest):
    """Whatever the length of the pieces; a pass of the start token alone is one token long."""
    rule = ContextRule(20, start_token, EOT)
    for items in (window_items(store, range(store.m // 8), 8, rule), document_items(store, range(15), rule)):
        model, items = Watched(longest), list(items)
        score_items(model, items, arithmetic=ARITHMETIC)
        full = (64 // 24, 24) if longest is None else (64 // 20, 20)
        assert set(model.inputs) <= {full, (8, 8)} and full in model.inputs
        assert ((8, 8) in model.inputs) == (start_token == "first")
        assert len({item.ids.size for item in items}) > 3


def test_a_token_does_not_see_through_the_shape_where_its_document_ends(tmp_path):
    """The same beginning in a short and in a long document, and in windows cut elsewhere: equal bits."""
    model = GPT({"layers": 2, "heads": 2, "width": 16, "context_length": 64, "positions": "learned"}, V)
    model.initialize(1).eval()
    start = np.random.default_rng(0).integers(1, V, 7).tolist()
    long = start + np.random.default_rng(1).integers(1, V, 50).tolist()
    stores = [write_store(tmp_path / str(i), [document], V, EOT) for i, document in enumerate((start, long))]
    rule = ContextRule(60, "always", EOT)
    short, whole = (
        score_items(model, list(document_items(store, [0], rule)), arithmetic=ARITHMETIC)[0]
        for store in stores
    )
    for a, b in zip(short, whole, strict=True):
        assert len(a) == 8 and (a[:7] == b[:7]).all()


def test_the_head_takes_equally_many_rows_whatever_the_number_of_predictions(store):
    step = head_rows(V, CPU)
    assert step % 16 == 0 and head_rows(10**9, CPU) == 16
    model, count = Watched(), 0
    inputs = [np.array([1, 2, 3])] * (step + 5)
    for places, hidden, logits in scored_logits(
        model, inputs, [3] * len(inputs), [np.array([2])] * len(inputs), arithmetic=ARITHMETIC
    ):
        count += len(places)
        assert len(hidden) == len(logits) == step
    assert count == len(inputs)
    assert set(model.heads) == {1, step}  # one row once, to see the vocabulary
    assert set(model.inputs) == {(8, 8)}


def test_an_arithmetic_that_the_device_or_the_weights_do_not_have_is_refused(store):
    items = list(document_items(store, [0], ContextRule(20, "always", EOT)))
    with pytest.raises(InputError, match="arithmetic tf32 on device cpu; expected a CUDA GPU"):
        score_items(Watched(), items, arithmetic=ARITHMETIC | {"dtype": "tf32"})
    with pytest.raises(InputError, match=r"tiny: weight 'weight' is torch.float32; expected torch.bfloat16"):
        score_items(Watched(), items, arithmetic=ARITHMETIC | {"dtype": "bfloat16"}, name="tiny")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory: 1 byte")]
)
def test_a_batch_that_does_not_fit_is_an_error_and_never_a_smaller_one(store, error):
    class Large(Watched):
        def hidden(self, ids):
            self.inputs.append(ids.shape)
            raise error

    model, items = Large(), list(document_items(store, [0], ContextRule(20, "always", EOT)))
    expected = r"big: a batch of 2 inputs of 24 tokens does not fit .* cpu; expected a smaller .*batch_tokens"
    with pytest.raises(InputError, match=expected):
        score_items(model, items, arithmetic=ARITHMETIC, name="big")
    assert len(model.inputs) == 1


def test_other_errors_keep_their_traceback(store):
    class Broken(Watched):
        def hidden(self, ids):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        items = list(document_items(store, [0], ContextRule(20, "always", EOT)))
        score_items(Broken(), items, arithmetic=ARITHMETIC)
