"""Preparation of codec ``sequential``: a whole model at the size that is asked for.

One number, the step where a unit of curvature lies, sets all steps: every number of every tensor then costs
the loss about as much. It is found so that the message has the bits per parameter that are asked for, or so
that the predicted bound is least.

In memory are, beside the model, the second moments of a group of layers, and later the numbers of one
candidate; feedback factors wait on disk::

    model  -->  moments of a group  -->  feedback, steps       for each group
                                            |
                                      scratch folder
                                            |
    model  -------------------------->   numbers  --> bits     for each unit of step
"""

import contextlib
import copy
import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from tokenbounds.codecs.best_size import Predictor, least, scored_length
from tokenbounds.codecs.bits import Writer
from tokenbounds.codecs.sequential.codec import SequentialCodec
from tokenbounds.codecs.sequential.matrix import Stepped, canonical, sides
from tokenbounds.codecs.sequential.moments import GROUP_BYTES, measure
from tokenbounds.codecs.sequential.rounding import feedback, stepped
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.io.progress import Steps
from tokenbounds.models.folders import load_model
from tokenbounds.models.registry import context_length_of
from tokenbounds.randomness import generator, stream_seed
from tokenbounds.training.batches import sample

log = logging.getLogger(__name__)
_BATCH_TOKENS = 1024  # of which gradients are kept through all layers
_FREQUENCY_TOKENS = 1 << 22
_FLOOR = 0.05  # of the mean weight of rows: no row is free, whatever its gradients on few tokens
_COARSEST = 8.0  # no row's step is so many times the median one: far from it the curvature says nothing
_SIDE_BITS = 3.0  # that an exponent costs
_CLOSE = 0.01  # a size that is asked for is met from below within this share
_MOST_TRIES = 8


def sequentially(folder, codec, *, name, seed, tokens, device, contexts):
    """Prepare codec ``sequential`` (see `tokenbounds.codecs.encode.code_model`)."""
    device = choose_device(device)
    model, config = load_model(folder)
    model.to(device)
    length = scored_length(contexts, context_length_of(config))
    with calibrated(model, codec, tokens, length, name=name, seed=seed) as rounder:
        if codec["bits"] == "best":
            predictor = Predictor(tokens, generator(seed, "size", name), length, device)
            fields, report = _best(model, rounder, predictor)
        else:
            fields, report = rounder.of_size(codec["bits"])
    return {"kind": "sequential"}, fields, {"sequential": report}


@contextlib.contextmanager
def calibrated(model, codec, tokens, length, *, name, seed, group_bytes=GROUP_BYTES):
    """Measure what matters in a model, and give the `Rounder` that rounds it accordingly, within.

    Its feedback factors are in a folder of temporary files (environment variable ``TMPDIR``), which is then
    removed: 4 bytes for each pair of inputs of a layer, not counted twice where layers share them.

    Parameters
    ----------
    model : torch.nn.Module
        Of some family, in evaluation mode, on the device to calibrate it on. Nothing else may change its
        weights within.
    codec : dict
        The codec's section of the configuration.
    tokens : tokenbounds.corpus.store.TokenStore
        Training tokens.
    length : int
        Tokens per context.
    name, seed : str, int
        Name the random streams.
    group_bytes : int
        See `tokenbounds.codecs.sequential.moments.measure`.

    Yields
    ------
    Rounder
    """
    device = next(model.parameters()).device
    batch = max(1, _BATCH_TOKENS // max(length, 1))
    count, with_gradients = (
        -(-codec[key] // (batch * max(length, 1))) for key in ("tokens", "gradient_tokens")
    )
    rng = generator(seed, "calibration", name)
    importance = measure(
        model,
        [sample(tokens, rng, batch, length, device)[0] for _ in range(count)],
        with_gradients=with_gradients,
        frequency=_frequency(tokens, generator(seed, "frequency", name), model.vocab_size),
        seed=stream_seed(seed, "calibration targets", name),
        group_bytes=group_bytes,
    )
    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as scratch:
        yield Rounder(model, importance, codec["damping"], scratch)


def _frequency(tokens, rng, vocab_size):
    """Return the share of each token, from all of them or from as many as are enough."""
    if tokens.m <= _FREQUENCY_TOKENS:
        ids = torch.from_numpy(tokens.tokens(0, tokens.m).astype("int64"))
    else:
        starts = rng.integers(0, tokens.m - 1024, size=_FREQUENCY_TOKENS // 1024).tolist()
        ids = torch.cat([torch.from_numpy(tokens.tokens(s, s + 1024).astype("int64")) for s in starts])
    return torch.bincount(ids, minlength=vocab_size).double() / len(ids)


class Rounder:
    """Rounds all tensors of a model for one unit of step.

    Parameters
    ----------
    model : torch.nn.Module
        Its weights are read, and not copied: they must stay as they are while the rounder is used.
    importance : iterable of dict of str to tokenbounds.codecs.sequential.moments.Importance
        Those of all tensors, a group at a time: see `tokenbounds.codecs.sequential.moments.measure`. Tensors
        that share their columns, as one object, are in one group.
    damping : float
        See `tokenbounds.codecs.sequential.rounding.feedback`.
    scratch : path
        Folder for the feedback factors, to be kept as long as the rounder is used.
    """

    def __init__(self, model, importance, damping, scratch):
        self._tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self._names = [name for name, _ in model.layout()]
        self.parameters = sum(self._tensors[name].numel() for name in self._names)
        self._damping, self._scratch = damping, Path(scratch)
        self._plans: dict[str, tuple] = {}
        for group in importance:
            self._add(group)
            del group  # before the next is measured, for which there is no room beside it

    def _add(self, group):
        """Plan how the tensors of a group are rounded."""
        uppers: dict[int, tuple] = {}
        with Steps("feedback", len(group)) as progress:
            for name, found in group.items():
                self._plans[name] = self._plan(name, found, uppers)
                progress.show()

    def _plan(self, name, found, uppers):
        """Return the file of the feedback, steps of rows and columns for a unit of 1, and whether to
        transpose."""
        tensor = self._tensors[name]
        shape = sides(tensor.shape)
        shape = shape[::-1] if found.transposed else shape
        rows = found.rows.double().to(tensor.device)
        mean = rows.mean()
        if not mean > 0:  # no gradient reaches it: nothing depends on it
            size = tensor.abs().max().double().clamp_min(2.0**-32)
            return None, size.expand(shape[0]), None, found.transposed
        rows = (rows + _FLOOR * mean).rsqrt()
        rows = torch.minimum(rows, _COARSEST * rows.median())
        if found.columns.dim() == 2:
            key = id(found.columns)
            if key not in uppers:
                uppers[key] = self._feedback(found.columns.to(tensor.device), name)
            upper, columns = uppers[key]
        else:
            upper, weights = None, found.columns.double().to(tensor.device)
            columns = (weights + _FLOOR * weights.mean()).rsqrt()
        if not _pays(rows, shape[1]):
            rows = _even(rows)
        if shape[0] == 1 or not _pays(columns, shape[0]):
            columns = _even(columns)
        return upper, rows, columns, found.transposed

    def _feedback(self, moments, name):
        """Return the file of a new feedback factor, and its diagonal."""
        upper = feedback(moments, self._damping, f"tensor {name!r}")
        path = self._scratch / f"{len(self._plans)}.npy"
        try:
            np.save(path, upper.cpu().numpy())
        except OSError as error:
            size = upper.numel() * upper.element_size()
            expected = f"expected room for {size} bytes of feedback of tensor {name!r}, see TMPDIR"
            raise InputError(f"{path}: cannot be written ({error}); {expected}") from None
        return path, upper.diagonal().double()

    def fields(self, unit):
        """Round all tensors with steps of `unit` times those of a unit of 1.

        Returns
        -------
        dict of str to Stepped
        """
        fields = {}
        with Steps("rounding", len(self._names)) as progress:
            for name in self._names:
                fields[name] = self._rounded(name, unit)
                progress.show()
        return fields

    def _rounded(self, name, unit):
        upper, rows, columns, transposed = self._plans[name]
        tensor = self._tensors[name]
        matrix = tensor.reshape(sides(tensor.shape))
        matrix = matrix.T if transposed else matrix
        if upper is not None:  # mapped, so that it is in memory for as long as it is used
            upper = torch.from_numpy(np.load(upper, mmap_mode="c")).to(matrix.device)
        dead = columns is None
        columns = torch.ones(matrix.shape[1], device=matrix.device) if dead else columns
        found = canonical(stepped(matrix, upper, rows * (1.0 if dead else unit), columns, f"tensor {name!r}"))
        if transposed:
            return Stepped(
                tuple(tensor.shape), found.numbers.T.copy(), found.exponent, found.columns, found.rows
            )
        return Stepped(tuple(tensor.shape), found.numbers, found.exponent, found.rows, found.columns)

    def bits(self, fields):
        """Return the length of a message's body, in bits."""
        writer = Writer()
        SequentialCodec().write(writer, fields, {})
        return 8 * len(writer.data)

    def of_size(self, per_parameter):
        """Round all tensors so that their body has at most so many bits per parameter, and nearly as many.

        Returns
        -------
        fields : dict of str to Stepped
        report : dict
            ``bits_asked`` and ``bits_reached``, per parameter; ``unit``.

        Raises
        ------
        InputError
            No unit of step gives the size.
        """
        target = per_parameter * self.parameters
        low = high = None  # log2 of units that are too small, and small enough
        unit, tried, best = self.guess(per_parameter), [], None
        for _ in range(_MOST_TRIES):
            fields = None  # there is no room for two candidates, so that the best is rounded again
            try:
                fields = self.fields(2.0**unit)
            except InputError:
                if low is None or high is not None:
                    raise
                break  # steps coarser than a message can hold
            bits = self.bits(fields)
            tried.append((unit, bits))
            log.info("unit 2^%.3f: %.3f bits per parameter", unit, bits / self.parameters)
            if bits <= target and (best is None or bits > best[0]):
                best = bits, unit
            if target * (1 - _CLOSE) <= bits <= target:
                break
            low, high = (unit, high) if bits > target else (low, unit)
            unit = self._next(tried, target * (1 - _CLOSE / 2), low, high)
        if best is None:
            reached = min(bits for _, bits in tried) / self.parameters
            raise InputError(
                f"bits is {per_parameter:g}; the smallest message reached has {reached:.3f} bits per "
                "parameter, expected a size within reach"
            )
        bits, unit = best
        if fields is None or unit != tried[-1][0]:
            fields = None
            fields = self.fields(2.0**unit)
        report = {"bits_asked": per_parameter, "bits_reached": bits / self.parameters, "unit": 2.0**unit}
        return fields, report

    def _next(self, tried, target, low, high):
        """Return the next unit to try: by the slope of the last two, or in the middle."""
        (unit, bits), slope = tried[-1], -float(self.parameters)
        if len(tried) > 1 and tried[-2][0] != unit:
            slope = min((bits - tried[-2][1]) / (unit - tried[-2][0]), slope / 20)
        guess = unit + max(-4.0, min(4.0, (target - bits) / slope))
        if low is not None and high is not None and not low < guess < high:
            guess = (low + high) / 2
        return guess

    def guess(self, per_parameter):
        """Estimate the binary logarithm of the unit from the entropy of Gaussian numbers."""
        sizes, weights = [], []
        for name in self._names:
            _, rows, columns, _ = self._plans[name]
            if columns is None:
                continue
            tensor = self._tensors[name].double()
            mean = torch.log2(rows).mean() + torch.log2(columns).mean()
            sizes.append(0.5 * math.log2(float((tensor**2).mean()) + 1e-60) - float(mean))
            weights.append(tensor.numel())
        mean = sum(size * weight for size, weight in zip(sizes, weights, strict=True)) / max(sum(weights), 1)
        return mean + 0.5 * math.log2(2 * math.pi * math.e) - per_parameter


def _best(model, rounder, predictor):
    """Round at the size with the least predicted bound."""
    best: dict = {}
    last: dict = {}  # unit and fields: there is no room for those of two candidates
    candidate = copy.deepcopy(model)  # the rounder reads the weights of the model itself

    def evaluate(unit):
        last.clear()
        try:
            fields = rounder.fields(2.0**unit)
        except InputError:
            if not best:
                raise
            return math.inf  # steps coarser than a message can hold
        bits = rounder.bits(fields)
        _fill(candidate, fields)
        bound, loss = predictor.bound(candidate, bits)
        size = bits / rounder.parameters
        log.info("%.3f bits per parameter: loss %.4f, predicted bound %.4f", size, loss, bound)
        last.update(unit=unit, fields=fields)
        if not best or bound < best["bound"]:
            best.update(bound=bound, loss=loss, size=size, unit=unit)
        return bound

    start = rounder.guess(3.0)
    least([start + step for step in (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)], evaluate, refine=2, beyond=4)
    report = {
        "bits_reached": best["size"],
        "unit": 2.0 ** best["unit"],
        "predicted_bound": best["bound"],
        "calibration_loss_bits": best["loss"],
    }
    if last.get("unit") != best["unit"]:
        last.clear()
        last["fields"] = rounder.fields(2.0 ** best["unit"])  # the same again
    return last["fields"], report


def _fill(model, fields):
    """Give a model the values of `Stepped` tensors, of one tensor at a time."""
    parameters = dict(model.named_parameters())
    for name, field in fields.items():
        parameters[name].data.copy_(torch.from_numpy(field.values()).reshape(field.shape))


def _even(steps):
    """Return equal steps with the same geometric mean."""
    return torch.log2(steps).mean().exp2().expand(len(steps))


def _pays(steps, others):
    """Tell whether steps of their own save more than they cost: each is that of so many numbers."""
    inverse = steps.double() ** -2
    gain = 0.5 * (torch.log2(inverse.mean()) - torch.log2(inverse).mean())
    return float(gain) * others > _SIDE_BITS
