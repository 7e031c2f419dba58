"""Smoothing head of a coded model, trained on other tokens than the certificate draws, at its complexity."""

import math
from pathlib import Path

import numpy as np

from tokenbounds.bounds import Bpd, complexity_terms, grids_of, split_delta, total_nats
from tokenbounds.bounds.methods import METHODS
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import model_of, read_message, with_head
from tokenbounds.corpus.contexts import token_items
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.models.precision import cast
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.randomness import generator
from tokenbounds.scoring.score import features
from tokenbounds.smoothing.train import choose_head, least_held_out


def head_of_message(
    path,
    store_folder,
    *,
    name,
    codec,
    bounds_settings,
    delta,
    n,
    scheme,
    choices_bits,
    seed,
    device,
):
    """Train a smoothing head on the model decoded from a message.

    Parameters
    ----------
    path : path
        The model's message.
    store_folder : path
        Folder of the token index that the training tokens are drawn from, by the stream ``("alpha_head",
        name)``.
    name : str
        Name of the stream; also for errors.
    codec : dict
        ``objective``, ``alpha_min`` (list), ``alpha_max``, ``tokens``: see `tokenbounds.config.schema.Head`.
    bounds_settings : dict
        The grids of the `bounds` section.
    delta, n, choices_bits
        Facts of the certificate that will be made.
    scheme : dict
        How much context the scored tokens have: an entry of the message (`tokenbounds.codecs.contexts`), of
        mode token.
    seed : int
        The run's seed.
    device : str
        torch device, or "auto".

    Returns
    -------
    head : AlphaHead
    history : list of dict
        See `tokenbounds.smoothing.train.train_head`.
    """
    message, base, store = read_message(path), Path(path).read_bytes(), TokenStore(store_folder)
    if message.head is not None:
        raise InputError(f"{path}: the message has a smoothing head; expected one without")
    if scheme["mode"] != "token":
        expected = f"expected a sampling of mode token, not {scheme['mode']}"
        raise InputError(f"{path}: a smoothing head is trained on single tokens; {expected}")
    grids = grids_of(bounds_settings)
    positions = generator(seed, "alpha_head", name).integers(0, store.m, size=codec["tokens"])
    items = list(token_items(store, positions, context_rule(message, scheme, str(path))))
    arithmetic = message.config["contexts"]["arithmetic"]
    model = cast(model_of(message, str(path)), arithmetic).to(choose_device(device))
    hidden, log2_q, entropy_bits = features(model, items, arithmetic=arithmetic, name=name, progress=True)
    # The grids that the certificate will choose from depend on whether there are a head and entropies, not on
    # their values.
    headed = Bpd(log2_q, store.vocab_size, entropy_bits, np.ones(len(log2_q)), (codec["alpha_min"][0], 1.0))
    sizes = METHODS[codec["objective"]].grid_sizes(headed, grids)

    def trained(width):
        """Train a head on the first `width` components of the state; its message is in the complexity."""
        coded = with_head(base, AlphaHead(width, codec["alpha_min"][0], codec["alpha_max"]))
        terms = complexity_terms(8 * len(coded), sizes, choices_bits)
        return choose_head(
            hidden[:, :width],
            log2_q,
            entropy_bits,
            store.vocab_size,
            alpha_mins=codec["alpha_min"],
            alpha_max=codec["alpha_max"],
            objective=codec["objective"],
            complexity_nats=total_nats(terms) - math.log(split_delta(delta)[0]),
            m=store.m,
            n=n,
            delta=delta,
            grids=grids,
        )

    # The state costs 16 bits per component, and on small models the entropy says nearly all: the held-out
    # objective decides.
    return min((trained(hidden.shape[1]), trained(0)), key=least_held_out)
