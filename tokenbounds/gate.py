"""The sanity gate of published models: a damaged checkpoint, or one read wrongly, loses far more bits than its sort of model does."""

import math

import numpy as np

from tokenbounds.corpus import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.files import read_json
from tokenbounds.hypothesis import read_model
from tokenbounds.models import context_length_of
from tokenbounds.scoring import ContextRule, document_items, score_items
from tokenbounds.streams import generator

DOCUMENTS = 20
MOST_TOKENS = 512  # of a document: a model that is damaged shows it early


def loss_on_documents(message_path, store_folder, *, name, seed, batch_tokens, device):
    """Mean loss of a message's model on the beginnings of 20 documents of its own corpus, drawn apart from those of any certificate.

    Returns
    -------
    dict
        ``bits_per_token``, ``random_guess`` (log2 V), ``documents``, ``tokens``, and ``bad``: whether the loss is above half of the random
        guess.
    """
    store = TokenStore(store_folder)
    message, model = read_model(message_path, choose_device(device))
    hypothesis = message.config["hypothesis"]
    rule = ContextRule(min(MOST_TOKENS, context_length_of(hypothesis)), hypothesis["start_token"], hypothesis["eot_id"])
    documents = generator(seed, "gate", name).integers(0, len(store.ends), size=DOCUMENTS)
    scored = score_items(model, list(document_items(store, documents, rule)), batch_tokens=batch_tokens, name=name, progress=True)
    losses, guess = -np.concatenate([log2_q for log2_q, *_ in scored]), math.log2(store.vocab_size)
    loss = float(losses.mean())
    return {"bits_per_token": loss, "random_guess": guess, "documents": DOCUMENTS, "tokens": losses.size, "bad": loss > guess / 2}


def check_gate(path, accept, name):
    """Refuse a model that its gate file at `path` calls bad, unless `accept`."""
    found = read_json(path)
    if found["bad"] and not accept:
        loss, limit = found["bits_per_token"], found["random_guess"] / 2
        raise InputError(
            f"{name}: {loss:.2f} bits per token on {found['documents']} documents; expected at most {limit:.2f}, half of the random guess: "
            f"its files may be damaged or not fit the corpus' tokenizer (accept_bad_models: true in the configuration goes on all the same)"
        )
