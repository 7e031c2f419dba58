"""Records against a plain computation: one forward pass per token over exactly the tokens it may see."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from support.stores import random_documents, write_store

from tokenbounds.corpus.contexts import ContextRule, token_items, window_items
from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.scoring.parts import records_table
from tokenbounds.scoring.records import read_records, write_records
from tokenbounds.scoring.score import batches, predictions, rescoring_difference, score_items

V, EOT, LIMIT = 50, 0, 16


@pytest.fixture(scope="module")
def model():
    gpt = GPT({"layers": 2, "heads": 2, "width": 16, "context_length": 32, "positions": "rotary"}, V)
    gpt.initialize(7)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(1.5)  # away from uniform predictions, so that a wrong context shows
    return gpt.eval()


@pytest.fixture(scope="module")
def documents():
    return [[5], [7, 8], *random_documents(np.random.default_rng(3), 12), [9] * 40, [3]]


@pytest.fixture(scope="module")
def store(documents, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "train", documents, V, EOT, shards=3)


def reference(model, ids, target):
    """log2 probability, rank and entropy in bits from the whole logits of one pass."""
    with torch.inference_mode():
        logits = model.head(model.hidden(torch.tensor([ids])))[0, -1].double().numpy()
    log_p = log_softmax(logits)
    rank = int((logits >= logits[target]).sum()) - 1
    return log_p[target] / np.log(2), rank, -(np.exp(log_p) * log_p).sum() / np.log(2)


def seen(documents, start_token, limit):
    """Per global position: input ids of the prediction and the target, from the lists of documents
    themselves."""
    for document in documents:
        tokens = [*document, EOT]
        for i, target in enumerate(tokens):
            context = tokens[max(0, i - limit) : i]
            if not context or (start_token == "always" and i < limit):
                context = [EOT, *context]
            yield context, target, min(i, limit)


def scored_columns(model, items, batch_tokens=256):
    return records_table(items, score_items(model, items, batch_tokens=batch_tokens)).to_pandas()


@pytest.mark.parametrize("start_token", ["first", "always"])
def test_every_token_of_the_corpus(model, documents, store, start_token):
    items = list(token_items(store, np.arange(store.m), ContextRule(LIMIT, start_token, EOT)))
    records = scored_columns(model, items)
    expected = list(seen(documents, start_token, LIMIT))
    assert len(records) == len(expected) == store.m
    for record, (ids, target, length) in zip(records.itertuples(), expected, strict=True):
        log2_q, rank, entropy = reference(model, ids, target)
        assert record.log2_q == pytest.approx(log2_q, abs=1e-5)
        assert record.entropy_bits == pytest.approx(entropy, abs=1e-5)
        assert record.rank == rank
        assert record.context_length == length
    assert list(records["position"]) == list(range(store.m))


def test_neither_batch_size_nor_order_changes_a_record(model, store):
    positions = np.random.default_rng(0).integers(0, store.m, size=200)
    rule = ContextRule(LIMIT, "first", EOT)
    records = scored_columns(model, list(token_items(store, positions, rule)))
    order = np.random.default_rng(1).permutation(len(positions))
    for batch_tokens in (1, 37, 10**6):
        shuffled = scored_columns(model, list(token_items(store, positions[order], rule)), batch_tokens)
        for column in ("log2_q", "entropy_bits"):
            assert np.abs(shuffled[column].to_numpy() - records[column].to_numpy()[order]).max() < 1e-5
        assert (shuffled["rank"].to_numpy() == records["rank"].to_numpy()[order]).all()


@pytest.mark.parametrize("start_token", ["first", "always"])
def test_a_token_of_another_document_changes_nothing(model, documents, store, tmp_path, start_token):
    kept = 5
    others = [
        document if i == kept else [(token % (V - 1)) + 1 for token in document]
        for i, document in enumerate(documents)
    ]
    changed = write_store(tmp_path / "train", others, V, EOT)
    begin = sum(len(document) + 1 for document in documents[:kept])
    positions = np.arange(begin, begin + len(documents[kept]) + 1)
    rule = ContextRule(LIMIT, start_token, EOT)
    before, after = (scored_columns(model, list(token_items(s, positions, rule))) for s in (store, changed))
    assert before.equals(after)
    window = 8
    whole = range(-(-begin // window), (begin + len(documents[kept]) + 1) // window)
    before, after = (
        scored_columns(model, list(window_items(s, whole, window, rule))) for s in (store, changed)
    )
    assert len(before) and before.equals(after)


@pytest.mark.parametrize("start_token", ["first", "always"])
@pytest.mark.parametrize(("window", "length"), [(8, 16), (16, 16), (1, 1), (5, 12)])
def test_windows_score_each_token_once_with_the_context_of_the_window(
    model, documents, store, window, length, start_token
):
    count = store.m // window
    items = list(window_items(store, range(count), window, ContextRule(length, start_token, EOT)))
    records = scored_columns(model, items)
    assert list(records["position"]) == list(range(count * window))
    assert list(records["draw"]) == [i // window for i in range(count * window)]
    starts, tokens = [], []
    for document in documents:
        starts += [len(tokens)] * (len(document) + 1)
        tokens += [*document, EOT]
    for record in records.itertuples():
        i, earliest = record.position, (record.position // window) * window - (length - window)
        begin = max(starts[i], earliest)
        ids = tokens[begin:i]
        if not ids or (start_token == "always" and begin == starts[i]):
            ids = [EOT, *ids]
        assert record.log2_q == pytest.approx(reference(model, ids, tokens[i])[0], abs=1e-5)
        assert record.context_length == i - begin


def test_input_is_never_longer_than_the_rule_allows(store):
    for start_token in ("first", "always"):
        rule = ContextRule(LIMIT, start_token, EOT)
        assert max(item.ids.size for item in token_items(store, np.arange(store.m), rule)) <= LIMIT
        assert max(item.ids.size for item in window_items(store, range(store.m // 8), 8, rule)) <= LIMIT


def test_predictions_count_ties_against_the_model():
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    log2_q, rank, entropy = predictions(logits, torch.tensor([1, 2]))
    assert rank.tolist() == [1, 3]
    assert log2_q[1].item() == pytest.approx(-2, abs=1e-12)
    assert entropy[1].item() == pytest.approx(2, abs=1e-12)


def test_predictions_of_extreme_logits_are_exact():
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    log2_q, rank, entropy = predictions(logits, torch.tensor([2]))
    assert log2_q.item() == pytest.approx(-2e4 / np.log(2))
    assert (rank.item(), entropy.item()) == (2, 0)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 300))
@settings(deadline=None, max_examples=60)
def test_batches_hold_every_item_once_within_the_limit(lengths, batch_tokens):
    groups = list(batches(lengths, batch_tokens))
    assert sorted(i for batch in groups for i in batch) == list(range(len(lengths)))
    assert all(
        len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens for batch in groups
    )


def test_a_prediction_that_is_not_finite_names_model_and_position(model, store):
    broken = GPT({"layers": 1, "heads": 2, "width": 16, "context_length": 32, "positions": "rotary"}, V)
    broken.initialize(0)
    with torch.no_grad():
        next(broken.parameters())[3] = float("inf")
    items = list(token_items(store, [1, 4], ContextRule(LIMIT, "first", EOT)))
    with pytest.raises(InputError, match=r"tiny: the prediction for the token at position \d+ is not finite"):
        score_items(broken, items, batch_tokens=64, name="tiny")


def test_rescoring_difference_is_small_and_seeded(model, store):
    items = list(token_items(store, np.arange(100), ContextRule(LIMIT, "first", EOT)))
    scored = score_items(model, items, batch_tokens=512)
    difference = rescoring_difference(model, items, scored, seed=1, stream="a", sample=20)
    assert 0 <= difference < 1e-5
    assert difference == rescoring_difference(model, items, scored, seed=1, stream="a", sample=20)
    shifted = [(log2_q + 1, rank, entropy) for log2_q, rank, entropy in scored]
    assert rescoring_difference(model, items, shifted, seed=1, stream="a", sample=20) == pytest.approx(
        np.log(2), abs=1e-4
    )


@pytest.fixture
def table(model, store):
    items = list(token_items(store, np.arange(20), ContextRule(LIMIT, "first", EOT)))
    return records_table(items, score_items(model, items, batch_tokens=512))


def test_records_are_read_as_written_in_parts(table, tmp_path):
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    write_records(paths[0], table[:7])
    write_records(paths[1], table[7:])
    columns = read_records(paths)
    assert all((columns[name] == table[name].to_numpy()).all() for name in table.column_names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: pa.concat_tables([t[:3], t[4:]]), "missing or out of order"),
        (lambda t: pa.concat_tables([t[5:], t[:5]]), "missing or out of order"),
        (lambda t: pa.concat_tables([t, t[-1:]]), "missing or out of order"),
        (lambda t: t[1:], "missing or out of order"),
        (lambda t: t[:0], "no records"),
        (lambda t: t.drop_columns(["rank"]), "columns draw"),
        (
            lambda t: t.set_column(4, "log2_q", pa.array([float("nan"), *t["log2_q"].to_pylist()[1:]])),
            "log2_q of record 0 is not finite",
        ),
    ],
)
def test_records_that_are_not_whole_are_refused(table, tmp_path, change, message):
    path = tmp_path / "records.parquet"
    write_records(path, change(table))
    with pytest.raises(InputError, match=message):
        read_records([path])


def test_a_truncated_record_file_is_refused(table, tmp_path):
    path = tmp_path / "records.parquet"
    write_records(path, table)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"records\.parquet: not a readable parquet file"):
        read_records([path])
