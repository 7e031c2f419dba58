"""Sanity check of published models: a model that is damaged, or read wrongly, has a much higher loss than
comparable models."""

import math

import numpy as np

from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.contexts import ContextRule, document_items
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.models.registry import context_length_of
from tokenbounds.randomness import generator
from tokenbounds.scoring.acceptance import DOCUMENTS, MOST_TOKENS
from tokenbounds.scoring.score import score_items


def loss_on_documents(message_path, store_folder, *, name, seed, device):
    """Measure the mean loss of a message's model on the beginnings of 20 documents of its own corpus, which
    are drawn from a random stream of their own.

    Returns
    -------
    dict
        ``bits_per_token``, ``random_guess`` (log2 V), ``documents``, ``tokens``, and ``bad``: whether the
        loss is above half of the random guess.
    """
    store = TokenStore(store_folder)
    message, model = read_model(message_path, choose_device(device))
    hypothesis = message.config["hypothesis"]
    rule = ContextRule(
        min(MOST_TOKENS, context_length_of(hypothesis)), hypothesis["start_token"], hypothesis["eot_id"]
    )
    # The stream keeps the name of its first day: under another one, other documents would be drawn.
    documents = generator(seed, "gate", name).integers(0, len(store.ends), size=DOCUMENTS)
    scored = score_items(
        model,
        list(document_items(store, documents, rule)),
        arithmetic=message.config["contexts"]["arithmetic"],
        name=name,
        progress=True,
    )
    losses, guess = -np.concatenate([log2_q for log2_q, *_ in scored]), math.log2(store.vocab_size)
    loss = float(losses.mean())
    return {
        "bits_per_token": loss,
        "random_guess": guess,
        "documents": DOCUMENTS,
        "tokens": losses.size,
        "bad": loss > guess / 2,
    }
