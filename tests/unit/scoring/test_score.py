"""Records against a plain computation: one forward pass per token over exactly the tokens it may see."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.special import log_softmax
from support.stores import random_documents, write_store

from tokenbounds.corpus.contexts import ContextRule, token_items, window_items
from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.scoring.parts import records_table
from tokenbounds.scoring.records import read_records, write_records
from tokenbounds.scoring.score import RANK_TOLERANCE_NATS, features, predictions, rank_interval, score_items

V, EOT, LIMIT = 50, 0, 16
ARITHMETIC = {"dtype": "float32", "multiple": 8, "batch_tokens": 256}


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


def scored_columns(model, items, **changes):
    return records_table(items, score_items(model, items, arithmetic=ARITHMETIC | changes)).to_pandas()


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


def test_order_changes_no_bit_and_shapes_change_rounding_only(model, store):
    positions = np.random.default_rng(0).integers(0, store.m, size=200)
    rule = ContextRule(LIMIT, "first", EOT)
    records = scored_columns(model, list(token_items(store, positions, rule)))
    order = np.random.default_rng(1).permutation(len(positions))
    shuffled = list(token_items(store, positions[order], rule))
    again = scored_columns(model, shuffled)
    names = ["log2_q", "entropy_bits", "rank"]
    assert (again[names].to_numpy() == records[names].to_numpy()[order]).all()
    for changes in ({"batch_tokens": 1}, {"batch_tokens": 37, "multiple": 5}, {"multiple": 1}):
        again = scored_columns(model, shuffled, **changes)
        for column in ("log2_q", "entropy_bits"):
            assert np.abs(again[column].to_numpy() - records[column].to_numpy()[order]).max() < 1e-5
        assert (again["rank"].to_numpy() == records["rank"].to_numpy()[order]).all()


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


def test_predictions_count_ties_and_near_ties_against_the_model():
    near = 1.0 - RANK_TOLERANCE_NATS / 2
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, near, 1.0, near - 1e-3]])
    log2_q, entropy, rank, exact, wide = predictions(
        logits, torch.tensor([1, 2, 2]), (RANK_TOLERANCE_NATS, 0.0, 0.01)
    )
    assert rank.tolist() == [1, 3, 1]
    assert exact.tolist() == [1, 3, 0] and wide.tolist() == [1, 3, 2]
    assert log2_q[1].item() == pytest.approx(-2, abs=1e-12)
    assert entropy[1].item() == pytest.approx(2, abs=1e-12)


def test_predictions_of_extreme_logits_are_exact():
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    log2_q, entropy, rank = predictions(logits, torch.tensor([2]))
    assert log2_q.item() == pytest.approx(-2e4 / np.log(2))
    assert (rank.item(), entropy.item()) == (2, 0)


class Logits(torch.nn.Module):
    """Predicts the same logits after every token."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def hidden(self, ids):
        return self.logits.expand(*ids.shape, -1)

    def head(self, hidden):
        return hidden


def test_the_ranks_that_a_record_may_hold(store):
    """Of the most probable token, with others 5e-5, 1.5e-4 and 3e-4 below it, and one far below."""
    logits = [-9.0] * V
    logits[7], logits[1], logits[2], logits[3] = 0.0, -0.5e-4, -1.5e-4, -3e-4
    model, (item,) = Logits(logits), list(token_items(store, [2], ContextRule(LIMIT, "first", EOT)))
    assert item.targets.tolist() == [7]
    ((_, rank, _),) = score_items(model, [item], arithmetic=ARITHMETIC)
    least, greatest = rank_interval(model, item, arithmetic=ARITHMETIC)
    assert (least.tolist(), rank.tolist(), greatest.tolist()) == ([0], [1], [2])
    least, greatest = rank_interval(model, item, 0.01, arithmetic=ARITHMETIC)
    assert (least.tolist(), greatest.tolist()) == ([0], [3])


def test_features_are_the_states_of_the_scores(model, store):
    items = list(token_items(store, np.arange(60), ContextRule(LIMIT, "always", EOT)))
    hidden, log2_q, entropy = features(model, items, arithmetic=ARITHMETIC)
    scored = score_items(model, items, arithmetic=ARITHMETIC)
    assert (log2_q == np.concatenate([columns[0] for columns in scored])).all()
    assert (entropy == np.concatenate([columns[2] for columns in scored])).all()
    for item, state in zip(items, hidden, strict=True):
        with torch.inference_mode():
            expected = model.hidden(torch.from_numpy(item.ids[None]))[0, -1].numpy()
        assert np.abs(state - expected).max() < 1e-5


def test_no_items_have_no_scores(model):
    assert score_items(model, [], arithmetic=ARITHMETIC) == []


def test_a_prediction_that_is_not_finite_names_model_and_position(model, store):
    broken = GPT({"layers": 1, "heads": 2, "width": 16, "context_length": 32, "positions": "rotary"}, V)
    broken.initialize(0)
    with torch.no_grad():
        next(broken.parameters())[3] = float("inf")
    items = list(token_items(store, [1, 4], ContextRule(LIMIT, "first", EOT)))
    with pytest.raises(InputError, match=r"tiny: the prediction for the token at position \d+ is not finite"):
        score_items(broken, items, arithmetic=ARITHMETIC, name="tiny")


@pytest.fixture
def table(model, store):
    items = list(token_items(store, np.arange(20), ContextRule(LIMIT, "first", EOT)))
    return records_table(items, score_items(model, items, arithmetic=ARITHMETIC))


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
