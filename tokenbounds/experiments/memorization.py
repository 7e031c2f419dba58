"""Memorization versus reasoning (paper, 6.5): the integers of its training sequences that a quantized model
still predicts.
"""

import collections
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from tokenbounds.codecs.decode import decode_message, encode_model, model_of, tensors_of
from tokenbounds.corpus.contexts import ContextRule, document_items
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.synthetic.integer_sequences import DELIMITER
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.models.folders import load_model
from tokenbounds.models.precision import cast
from tokenbounds.models.registry import context_length_of, start_id_of
from tokenbounds.scoring.score import score_items


@dataclasses.dataclass(frozen=True)
class IntegerCounts:
    """Counts of predicted integers.

    Attributes
    ----------
    right : int
        Integers that were predicted right.
    integers : int
        All integers that were predicted.
    attainable : int
        The most that any model could predict right.
    """

    right: int
    integers: int
    attainable: int


def integers_of(tokens, delimiter_id):
    """Split a document into its integers, each with the token that ends it.

    ::

        tokens      1  2  ,  3  ,  4  5  EOT
        slices      [0:3    ][3:5 ][5:8     ]

    Parameters
    ----------
    tokens : ndarray of int, shape (T,)
        Tokens of a whole document, its EOT last.
    delimiter_id : int

    Returns
    -------
    list of slice
        Slices of `tokens`: digits, then the delimiter, or the EOT after the last integer.
    """
    ends = [i + 1 for i, token in enumerate(tokens.tolist()) if token == delimiter_id] + [len(tokens)]
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]


def count_right(documents, ranks, delimiter_id):
    """Count the integers that are predicted right.

    An integer is right if each of its digits and the token that ends it (delimiter, or EOT after the last) is
    the single most probable one given the true tokens before it. The first integer of a document is left out,
    because nothing before it identifies the document.

    Parameters
    ----------
    documents : list of ndarray of int, shape (T,)
        Tokens of whole documents, their EOT last.
    ranks : list of ndarray of int, shape (T,)
        For each token the number of other tokens that are at least as probable.
    delimiter_id : int

    Returns
    -------
    IntegerCounts
        `attainable` counts, for each beginning that documents share, the integer that follows most often: a
        prediction is a function of the tokens before it, so it is right for one integer only.
    """
    right, following = 0, collections.defaultdict(collections.Counter)
    for tokens, document_ranks in zip(documents, ranks, strict=True):
        for integer in integers_of(tokens, delimiter_id)[1:]:
            right += not document_ranks[integer].any()
            following[tokens[: integer.start].tobytes()][tokens[integer].tobytes()] += 1
    integers = sum(counts.total() for counts in following.values())
    return IntegerCounts(right, integers, sum(max(counts.values()) for counts in following.values()))


def measure_accuracy(model, store, delimiter_id, rule, *, arithmetic, name="model"):
    """Count the integers that a model predicts right in all documents of a store.

    Parameters
    ----------
    model : module
        As for `tokenbounds.scoring.score.score_items`.
    store : tokenbounds.corpus.store.TokenStore
    delimiter_id : int
    rule : tokenbounds.corpus.contexts.ContextRule
    arithmetic : dict
        As for `tokenbounds.scoring.score.score_items`.
    name : str
        Name of the model, for errors.

    Returns
    -------
    IntegerCounts

    Raises
    ------
    InputError
        A document is longer than the rule's context: its last integers would not be predicted from all before
        them.
    """
    starts = store.start_of(np.arange(store.documents))
    documents = [
        store.tokens(start, end) for start, end in zip(starts.tolist(), store.ends.tolist(), strict=True)
    ]
    longest = max(map(len, documents))
    if longest > rule.length:
        raise InputError(
            f"{name}: a document of {longest} tokens is longer than "
            f"the context_length {rule.length} of the model"
        )
    items = list(document_items(store, range(store.documents), rule))
    ranks = [[] for _ in documents]
    scored = score_items(model, items, arithmetic=arithmetic, name=name)
    for item, (_, rank, *_) in zip(items, scored, strict=True):
        ranks[item.document].append(rank)
    return count_right(documents, [np.concatenate(passes) for passes in ranks], delimiter_id)


def write_accuracies(
    folder, tokens, tokenizer, out, *, levels, method, arithmetic, device="auto", name="model"
):
    """Measure a trained model at each number of quantization levels, and write the counts.

    Each time the model is coded as a message, and the model decoded from it is measured
    (docs/message-format.md).

    Parameters
    ----------
    folder : path
        Folder of the trained model.
    tokens, tokenizer : path
        Folders of the tokens that it was trained on, and of their tokenizer.
    out : path
        Output, csv with a row per number of levels; its sidecar ``.json`` holds the provenance:

        ===================================  ================================================
        ``levels``                           number of levels
        ``message_bytes``                    size of the message
        ``right, integers, attainable``      as in `IntegerCounts`
        ``accuracy``                         right / integers
        ``attainable_accuracy``              attainable / integers
        ===================================  ================================================
    levels : list of int
    method : {"uniform", "kmeans"}
        Quantization of the weights.
    arithmetic : dict
        Arithmetic of the decoded models (`tokenbounds.config.schema.Arithmetic`).
    device : str
    name : str
        Name of the model, for errors.

    Returns
    -------
    DataFrame
        The rows of the csv.

    Raises
    ------
    InputError
        As for `measure_accuracy`.
    """
    store, device = TokenStore(tokens), choose_device(device)
    delimiter_id = int(load_tokenizer(tokenizer).encode_batch([DELIMITER])[0][0])
    model, config = load_model(folder)
    length = context_length_of(config)
    rule = ContextRule(length, config["start_token"], start_id_of(config))
    contexts = {"arithmetic": arithmetic, "schemes": [{"mode": "document", "context_length": length}]}
    original, rows = tensors_of(model), []
    for number in levels:
        codec = {"kind": "levels", "levels": number, "method": method}
        data = encode_model(folder, codec, contexts, original)
        decoded = cast(model_of(decode_message(data), name), arithmetic).to(device)
        counts = measure_accuracy(decoded, store, delimiter_id, rule, arithmetic=arithmetic, name=name)
        rows.append({"levels": number, "message_bytes": len(data), **dataclasses.asdict(counts)})
    frame = pd.DataFrame(rows)
    frame["accuracy"] = frame["right"] / frame["integers"]
    frame["attainable_accuracy"] = frame["attainable"] / frame["integers"]
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False)
    facts = {"documents": store.documents, "device": str(device)}
    inputs = [Path(folder) / "model.safetensors", Path(folder) / "config.json", Path(tokens) / "index.json"]
    write_json(
        Path(out).with_suffix(".json"), provenance({"levels": levels, "method": method}, inputs, **facts)
    )
    return frame
