"""Train the smoothing head of a coded model: on tokens drawn apart from the certificate's, at the price it will have."""

import math
from pathlib import Path

from tokenbounds import bounds
from tokenbounds.corpus import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.hypothesis import context_rule, model_of, read_message, with_head
from tokenbounds.metrics import grids_of
from tokenbounds.scoring import features, token_items
from tokenbounds.smoothing import AlphaHead, choose_head
from tokenbounds.streams import generator


def head_of_message(path, store_folder, *, name, codec, bounds_settings, delta, n, sampling, choices_bits, seed, batch_tokens, device):
    """Train a smoothing head on the model decoded from a message.

    Parameters
    ----------
    path : path
        The model's message.
    store_folder : path
        Folder of the token index that the training tokens are drawn from, by the stream ``("alpha_head", name)``.
    name : str
        Names the stream; for errors.
    codec : dict
        ``objective``, ``alpha_min`` (list), ``alpha_max``, ``tokens``: see `tokenbounds.sections.Head`.
    bounds_settings : dict
        The grids of the `bounds` section.
    delta, n, choices_bits
        Of the certificate that will be made.
    sampling : str
        Name of the sampling scheme, of mode token, whose contexts the tokens are scored with.
    seed : int
        The run's seed.
    batch_tokens : int
        Most tokens per batch.
    device : str
        torch device, or "auto".

    Returns
    -------
    head : AlphaHead
    history : list of dict
        See `tokenbounds.smoothing.train_head`.
    """
    message, base, store = read_message(path), Path(path).read_bytes(), TokenStore(store_folder)
    if message.head is not None:
        raise InputError(f"{path}: the message has a smoothing head; expected one without")
    if message.config["contexts"][sampling]["mode"] != "token":
        raise InputError(f"{path}: a smoothing head is trained on single tokens; expected a sampling of mode token, not '{sampling}'")
    grids = grids_of(bounds_settings)
    positions = generator(seed, "alpha_head", name).integers(0, store.m, size=codec["tokens"])
    items = list(token_items(store, positions, context_rule(message, sampling, str(path))))
    model = model_of(message, str(path)).to(choose_device(device))
    hidden, log2_q, entropy_bits = features(model, items, batch_tokens=batch_tokens, name=name, progress=True)
    sizes = {key: len(getattr(grids, key)) for key in ("a", "beta1", "beta2", "width")}
    if codec["objective"] == "azuma_rigorous":
        sizes = {"lambda": len(grids.lambda_exponents)}

    def trained(width):
        """A head on the first `width` components of the state, at the price of its own message."""
        coded = with_head(base, AlphaHead(width, codec["alpha_min"][0], codec["alpha_max"]))
        payments = bounds.payments_bits(8 * len(coded), sizes, choices_bits)
        return choose_head(
            hidden[:, :width],
            log2_q,
            entropy_bits,
            store.vocab_size,
            alpha_mins=codec["alpha_min"],
            alpha_max=codec["alpha_max"],
            objective=codec["objective"],
            complexity_nats=bounds.payments_nats(payments) - math.log(bounds.split_delta(delta)[0]),
            m=store.m,
            n=n,
            delta=delta,
            grids=grids,
        )

    # The state costs 16 bits per component, and on small models the entropy says nearly all: the held-out objective decides.
    return min((trained(hidden.shape[1]), trained(0)), key=lambda result: min(row["held_out_bits"] for row in result[1]))
