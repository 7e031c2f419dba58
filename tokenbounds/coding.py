"""A trained model to its message, by the codec of the configuration: plain levels, tuned levels, or a lattice with calibration."""

import logging

import torch

from tokenbounds.corpus import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.hypothesis import encode_model, tensors_of
from tokenbounds.lattice import check_shape, hessians, quantize_model
from tokenbounds.models import context_length_of, load_config, load_model
from tokenbounds.streams import generator, stream_seed
from tokenbounds.training import sample
from tokenbounds.tuning import tune

log = logging.getLogger(__name__)

_SEQUENCES = 8  # per batch of calibration


def code_model(folder, codec, contexts, *, name, seed, tokens=None, device="auto"):
    """Quantize and code the model in a folder.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``.
    codec : dict
        A codec of the configuration, kind ``levels``, ``lattice`` or ``counts``: see `tokenbounds.sections.Levels`, `Lattice` and `Counts`.
    contexts : dict
        As for `tokenbounds.hypothesis.encode_model`.
    name : str
        The model's name; it names random streams.
    seed : int
        The run's seed.
    tokens : path, optional
        Folder of the training tokens, for tuning and calibration.
    device : str
        torch device, or "auto".

    Returns
    -------
    data : bytes
        The message.
    report : dict
        What tuning or calibration did; empty without.
    """
    if codec["kind"] == "counts":
        config = load_config(folder)
        return encode_model(folder, {"kind": "counts", **{key: config[key] for key in ("vocab_size", "eot_id")}}, contexts), {}
    levels = {key: codec[key] for key in ("levels", "method", "codebook")}
    if codec["kind"] == "lattice":
        number = stream_seed(seed, "lattice", name) % 2**32
        model, config = load_model(folder)
        tensors, report = lattice_tensors(
            model.to(choose_device(device)),
            TokenStore(tokens),
            bits=codec["bits"],
            seed=number,
            count=codec["tokens"],
            length=context_length_of(config),
            rng=generator(seed, "calibration", name),
            options={key: codec[key] for key in ("tuning_rounds", "scale") if key in codec},
        )
        coded = {"kind": "lattice", "bits": codec["bits"], "seed": number, **levels}
        return encode_model(folder, coded, contexts, tensors), report
    if "tuning" not in codec:
        return encode_model(folder, {"kind": "levels", **levels}, contexts), {}
    model, config = load_model(folder)
    length = context_length_of(config)
    tensors, report = tune(model, TokenStore(tokens), **levels, **codec["tuning"], sequence_length=length, seed=seed, device=device)
    # k-means keeps the tuned codewords as they are
    return encode_model(folder, {"kind": "levels", **levels, "method": "kmeans"}, contexts, tensors), {"tuning": codec["tuning"] | report}


def lattice_tensors(model, tokens, *, bits, seed, count, length, rng, options):
    """Tensors of a model, its linear layers on the lattice where their shape allows.

    Parameters
    ----------
    model : torch.nn.Module
        Of a family, on the device that it is calibrated on.
    tokens : TokenStore
        The training tokens.
    bits, seed, options
        As for `tokenbounds.lattice.quantize_model`.
    count, length : int
        Tokens for the Hessians, and per sequence (see `tokenbounds.training.sample`).
    rng : numpy.random.Generator
        Draws the sequences.

    Returns
    -------
    tensors : dict of str to Quantized or ndarray
        In the order of the layout.
    report : dict
        ``on_lattice``: how many tensors and values are.
    """
    device = next(model.parameters()).device
    model.eval()
    per_batch = _SEQUENCES * max(length, 1)
    batches = (sample(tokens, rng, _SEQUENCES, length, device)[0] for _ in range(-(-count // per_batch)))
    found = hessians(getattr(model, "lm", model), batches, forward=lambda ids: model.head(model.hidden(ids)))
    plain = tensors_of(model)
    chosen = {name: torch.from_numpy(value) for name, value in plain.items() if name in found and _fits(name, value.shape)}
    if not chosen:
        raise InputError(f"none of the model's {len(found)} linear layers has sides with a known Hadamard matrix; expected at least one")
    quantized = quantize_model(chosen, found, bits, seed=seed, **options)
    values = sum(value.numel() for value in chosen.values())
    log.info("%d of %d tensors, %d values, on the lattice", len(chosen), len(plain), values)
    return {name: quantized.get(name, value) for name, value in plain.items()}, {"on_lattice": {"tensors": len(chosen), "values": values}}


def _fits(name, shape):
    try:
        check_shape(shape, name)
    except InputError as error:
        log.info("%s: not on the lattice (%s)", name, error)
        return False
    return True
