"""Preparation of codec ``lattice``: second moments of each layer's inputs on training tokens, and rounding
with them."""

import logging
import math

import torch

from tokenbounds.codecs.best_size import Predictor, predicted, scored_length
from tokenbounds.codecs.decode import tensors_of
from tokenbounds.codecs.e8p_rounding import STAGES
from tokenbounds.codecs.lattice import check_shape, quantize_model
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.io.progress import Steps
from tokenbounds.models.folders import load_model
from tokenbounds.models.registry import context_length_of, fill_model
from tokenbounds.randomness import generator, stream_seed
from tokenbounds.training.batches import sample

log = logging.getLogger(__name__)
_SEQUENCES = 8  # per batch of calibration


def on_lattice(folder, codec, *, name, seed, tokens, device, contexts):
    """Prepare codec ``lattice`` (see `tokenbounds.codecs.encode.code_model`): put linear layers on the
    lattice, and leave the rest."""
    number = stream_seed(seed, "lattice", name) % 2**32
    model, config = load_model(folder)
    device = choose_device(device)
    length = scored_length(contexts, context_length_of(config))
    model.to(device)

    def at(bits):
        tensors, report = lattice_tensors(
            model,
            tokens,
            bits=bits,
            seed=number,
            count=codec["tokens"],
            length=length,
            rng=generator(seed, "calibration", name),
            options={key: codec[key] for key in ("tuning_rounds", "scale") if key in codec},
        )
        others = {key: codec[key] for key in ("levels", "method", "codebook")}
        return {"kind": "lattice", "bits": bits, "seed": number, **others}, tensors, report

    if codec["bits"] != "best":
        return at(codec["bits"])
    predictor = Predictor(tokens, generator(seed, "size", name), length, device)
    original = {key: value.copy() for key, value in tensors_of(model).items()}
    best: tuple = (math.inf, None)
    for bits in STAGES:
        options, tensors, report = at(bits)
        bound, loss, _ = predicted(model, predictor, tensors, options)
        size = {"bits": bits, "predicted_bound": bound, "calibration_loss_bits": loss}
        # the tensors that are not on the lattice are the model's own memory: put them back
        fill_model(model, original, folder)
        if bound < best[0]:
            best = bound, (options, tensors, report | {"size": size})
    return best[1]


def hessians(model, batches, forward=None, count_of_batches=None):
    """Measure second moments E[x x^T] of the inputs of each ``torch.nn.Linear`` of a model: the Hessian of
    the layer's squared output error.

    Parameters
    ----------
    model : torch.nn.Module
        The caller puts it into evaluation mode.
    batches : iterable
        Inputs of `forward`, e.g. token ids (B, T).
    forward : callable, optional
        Runs the model on one batch; the model itself by default.
    count_of_batches : int, optional
        Number of batches, for the progress that is shown.

    Returns
    -------
    dict of str to Tensor of float64, shape (n, n)
        On the CPU, by the name of the weight in the state dictionary; uncentred, the mean over all input
        vectors.

    Raises
    ------
    InputError
        No linear layers, no batches, a layer that no batch reached, or an input that is not finite.

    Notes
    -----
    A batch's products are taken in float64 on the CPU and in float32 on a GPU; they are added up in float64.
    """
    linears = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    if not linears:
        raise InputError("the model has no torch.nn.Linear; expected at least one to calibrate")
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys(linears, 0)

    def collect(name):
        def hook(_, inputs):
            x = inputs[0].detach().flatten(0, -2)  # (vectors, n)
            x = x.double() if x.device.type == "cpu" else x.float()
            product = (x.T @ x).double()
            sums[name] = sums[name] + product if name in sums else product
            counts[name] += len(x)

        return hook

    handles = [module.register_forward_pre_hook(collect(name)) for name, module in linears.items()]
    try:
        with torch.no_grad(), Steps("second moments", count_of_batches) as progress:
            for batch in batches:
                (forward or model)(batch)
                progress.show()
    finally:
        for handle in handles:
            handle.remove()
    for name, count in counts.items():
        if not count:
            raise InputError(
                f"tensor {name!r}: no calibration batch reached its layer; expected at least one input vector"
            )
    means = {name: (sums[name] / count).cpu() for name, count in counts.items()}
    for name, mean in means.items():
        if not mean.isfinite().all():
            raise InputError(f"tensor {name!r}: its layer's calibration inputs are not finite")
    return means


def lattice_tensors(model, tokens, *, bits, seed, count, length, rng, options):
    """Quantize a model: put its linear layers on the lattice where their shapes allow, and leave the other
    tensors.

    Parameters
    ----------
    model : torch.nn.Module
        A model of some family, on the device to calibrate it on.
    tokens : TokenStore
        The training tokens.
    bits, seed, options
        See `tokenbounds.codecs.lattice.quantize_model`.
    count, length : int
        Tokens for the Hessians, and per sequence (see `tokenbounds.training.batches.sample`).
    rng : numpy.random.Generator
        Draws the sequences.

    Returns
    -------
    tensors : dict of str to Quantized or ndarray
        In the order of the layout.
    report : dict
        ``on_lattice``: number of tensors and of values on the lattice.
    """
    device = next(model.parameters()).device
    model.eval()
    per_batch = _SEQUENCES * max(length, 1)
    number = -(-count // per_batch)
    batches = (sample(tokens, rng, _SEQUENCES, length, device)[0] for _ in range(number))
    measured = hessians(
        getattr(model, "lm", model), batches, lambda ids: model.head(model.hidden(ids)), number
    )
    plain = tensors_of(model)
    chosen = {
        name: torch.from_numpy(value)
        for name, value in plain.items()
        if name in measured and _fits(name, value.shape)
    }
    if not chosen:
        layers = f"the model's {len(measured)} linear layers"
        raise InputError(f"none of {layers} has sides with a known Hadamard matrix; expected at least one")
    quantized = quantize_model(chosen, measured, bits, seed=seed, **options)
    values = sum(value.numel() for value in chosen.values())
    log.info("%d of %d tensors, %d values, on the lattice", len(chosen), len(plain), values)
    return {name: quantized.get(name, value) for name, value in plain.items()}, {
        "on_lattice": {"tensors": len(chosen), "values": values}
    }


def _fits(name, shape):
    try:
        check_shape(shape, name)
    except InputError as error:
        log.info("%s: not on the lattice (%s)", name, error)
        return False
    return True
