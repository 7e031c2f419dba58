"""Memorization against reasoning (paper, 6.5): how many integers of its training sequences a quantized model still predicts."""

import collections
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from tokenbounds.corpus import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, provenance, write_json
from tokenbounds.hypothesis import decode_message, encode_model, model_of, tensors_of
from tokenbounds.models import context_length_of, load_model
from tokenbounds.scoring import ContextRule, document_items, score_items
from tokenbounds.sequences import DELIMITER
from tokenbounds.tokenize import load_tokenizer


@dataclasses.dataclass(frozen=True)
class Recall:
    """Integers that were predicted right, all that were predicted, and the most that any model could predict right."""

    right: int
    integers: int
    attainable: int


def integers_of(tokens, delimiter_id):
    """The integers of a document, each with the token that ends it.

    Parameters
    ----------
    tokens : ndarray of int, shape (T,)
        Of a whole document, its EOT last.
    delimiter_id : int

    Returns
    -------
    list of slice
        Of `tokens`: digits, then the delimiter, or the EOT after the last integer.
    """
    ends = [place + 1 for place, token in enumerate(tokens.tolist()) if token == delimiter_id] + [len(tokens)]
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def count_recalled(documents, ranks, delimiter_id):
    """How many integers are predicted right.

    An integer is right if each of its digits and the token that ends it (delimiter, or EOT after the last) is the single most probable one
    given the true tokens before it. The first integer of a document is left out: nothing before it says which document it is.

    Parameters
    ----------
    documents : list of ndarray of int, shape (T,)
        Tokens of whole documents, their EOT last.
    ranks : list of ndarray of int, shape (T,)
        Of each token, how many others are at least as probable.
    delimiter_id : int

    Returns
    -------
    Recall
        `attainable` counts, for each beginning that documents share, the integer that follows most often: a prediction is a function of
        what came before, so it is right for one integer only.
    """
    right, following = 0, collections.defaultdict(collections.Counter)
    for tokens, found in zip(documents, ranks, strict=True):
        for part in integers_of(tokens, delimiter_id)[1:]:
            right += not found[part].any()
            following[tokens[: part.start].tobytes()][tokens[part].tobytes()] += 1
    integers = sum(counts.total() for counts in following.values())
    return Recall(right, integers, sum(max(counts.values()) for counts in following.values()))


def measure_recall(model, store, delimiter_id, rule, *, batch_tokens, name="model"):
    """`count_recalled` of a model on all documents of a store.

    Parameters
    ----------
    model : module
        As for `tokenbounds.scoring.score_items`.
    store : tokenbounds.corpus.TokenStore
    delimiter_id : int
    rule : tokenbounds.scoring.ContextRule
    batch_tokens : int
    name : str
        For errors.

    Raises
    ------
    InputError
        A document that is longer than the rule's context: its last integers would not be predicted from all before them.
    """
    starts = store.start_of(np.arange(store.documents))
    documents = [store.tokens(start, end) for start, end in zip(starts.tolist(), store.ends.tolist(), strict=True)]
    longest = max(map(len, documents))
    if longest > rule.length:
        raise InputError(f"{name}: a document of {longest} tokens is longer than the context_length {rule.length} of the model")
    items = list(document_items(store, range(store.documents), rule))
    ranks = [[] for _ in documents]
    for item, (_, rank, *_) in zip(items, score_items(model, items, batch_tokens=batch_tokens, name=name), strict=True):
        ranks[item.document].append(rank)
    return count_recalled(documents, [np.concatenate(parts) for parts in ranks], delimiter_id)


def write_recall(folder, tokens, tokenizer, out, *, levels, method, batch_tokens, device="auto", name="model"):
    """Recall of a trained model at each number of quantization levels, as csv, and its sidecar ``.json``.

    Each time the model is coded as a message and the model that is measured is the one decoded from it (docs/message-format.md).

    Parameters
    ----------
    folder : path
        Of the trained model.
    tokens, tokenizer : path
        Of the tokens that it was trained on, and of their tokenizer.
    out : path
        The csv: a line per number of levels with ``levels``, ``message_bytes``, the counts of `Recall`, ``accuracy`` and
        ``attainable_accuracy``.
    levels : list of int
    method : {"uniform", "kmeans"}
        How weights are quantized.
    batch_tokens : int
    device : str
    name : str
        For errors.

    Returns
    -------
    DataFrame
    """
    store, device = TokenStore(tokens), choose_device(device)
    delimiter_id = int(load_tokenizer(tokenizer).encode_batch([DELIMITER])[0][0])
    model, config = load_model(folder)
    length = context_length_of(config)
    rule = ContextRule(length, config["start_token"], config["eot_id"])
    contexts = {"recall": {"mode": "document", "context_length": length}}
    original, lines = tensors_of(model), []
    for number in levels:
        codec = {"kind": "levels", "levels": number, "method": method}
        data = encode_model(folder, codec, contexts, original)
        decoded = model_of(decode_message(data), name).to(device)
        found = measure_recall(decoded, store, delimiter_id, rule, batch_tokens=batch_tokens, name=name)
        lines.append({"levels": number, "message_bytes": len(data), **dataclasses.asdict(found)})
    frame = pd.DataFrame(lines)
    frame["accuracy"] = frame["right"] / frame["integers"]
    frame["attainable_accuracy"] = frame["attainable"] / frame["integers"]
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False)
    facts = {"documents": store.documents, "device": str(device)}
    inputs = [Path(folder) / "model.safetensors", Path(folder) / "config.json", Path(tokens) / "index.json"]
    write_json(Path(out).with_suffix(".json"), provenance({"levels": levels, "method": method}, inputs, **facts))
    return frame
