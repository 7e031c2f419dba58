"""Sanity check of published models: a model that is damaged, or read wrongly, has a much higher loss than
comparable models."""

import math

import numpy as np

from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.contexts import ContextRule, document_items
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.models.folders import load_model
from tokenbounds.models.precision import cast
from tokenbounds.models.registry import context_length_of, start_id_of
from tokenbounds.randomness import generator
from tokenbounds.scoring.acceptance import DOCUMENTS, LIMIT, MOST_TOKENS
from tokenbounds.scoring.score import score_items


def loss_on_documents(
    message_path, store_folder, *, name, seed, device, sanity_limit=None, sanity_damage=None, undamaged=None
):
    """Compute a model's mean loss on the first tokens of a few documents, and say whether it is too high.

    The documents are drawn by the seed, from a random stream of their own.

    Parameters
    ----------
    message_path : path
        The model's message, with its sidecar if it names published files.
    store_folder : path
        Folder of the training split.
    name : str
        Name of the model and codec; it names the random stream and is shown with the progress.
    seed : int
    device : str
        See `tokenbounds.devices.choose_device`.
    sanity_limit : float, optional
        Largest loss in bits per token; default the random guess over `LIMIT`.
    sanity_damage : float, optional
        Largest loss above that of the model in folder `undamaged`, in bits per token; without the folder
        nothing is compared.
    undamaged : path, optional
        Folder of the model before its message was made.

    Returns
    -------
    dict
        ``bits_per_token``, ``random_guess`` (log2 V), ``limit``, ``limit_is`` (in words), ``documents``,
        ``tokens``, and ``bad``: whether the loss is above the limit.
    """
    store, device = TokenStore(store_folder), choose_device(device)
    message, model = read_model(message_path, device)
    hypothesis = message.config["hypothesis"]
    arithmetic = message.config["contexts"]["arithmetic"]
    length = min(MOST_TOKENS, context_length_of(hypothesis))
    rule = ContextRule(length, hypothesis["start_token"], start_id_of(hypothesis))
    # The stream keeps the name of its first day: under another one, other documents would be drawn.
    documents = generator(seed, "gate", name).integers(0, len(store.ends), size=DOCUMENTS)

    def losses_of(scored_model):
        options = {"arithmetic": arithmetic, "name": name, "progress": True}
        scored = score_items(scored_model, list(document_items(store, documents, rule)), **options)
        return -np.concatenate([log2_q for log2_q, *_ in scored])

    losses, guess = losses_of(model), math.log2(store.vocab_size)
    limits = [
        (guess / LIMIT, "a third of the random guess")
        if sanity_limit is None
        else (sanity_limit, "the model's sanity_limit")
    ]
    if undamaged is not None:
        del model
        whole = cast(load_model(undamaged)[0], arithmetic).to(device)
        before = float(losses_of(whole).mean())
        limits.append((before + sanity_damage, f"{sanity_damage:g} above the undamaged model's {before:.2f}"))
    (limit, reason), loss = min(limits), float(losses.mean())
    return {
        "bits_per_token": loss,
        "random_guess": guess,
        "limit": limit,
        "limit_is": reason,
        "documents": DOCUMENTS,
        "tokens": losses.size,
        "bad": loss > limit,
    }
