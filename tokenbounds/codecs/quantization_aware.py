"""Quantization-aware tuning: moving the weights and codewords of a quantized model to lower its loss.

Paper, B.2, after Lotfi et al. (2022): SGD on the training loss with a straight-through estimator. The
forward pass replaces a weight by its nearest codeword; the derivative of the loss with respect to that value
goes to the weight unchanged, and to the codeword as a sum over its weights::

    forward    weight --> nearest codeword --> loss
    backward   weight <-- unchanged g      <-- g = d loss / d codeword
               codeword <-- sum of g over its weights

The tuned model is the quantized one that a message holds: the forward pass uses codewords rounded to float16,
never the float32 centroids behind them. The result has at most ``levels`` distinct values per codebook, which
``method: kmeans`` of codec ``levels`` keeps.
"""

import copy
import logging
import math

import numpy as np
import torch
from torch.func import functional_call
from tqdm import tqdm

from tokenbounds.codecs.levels import LevelsCodec
from tokenbounds.codecs.scalar import check_values
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.models.folders import load_model
from tokenbounds.models.registry import context_length_of
from tokenbounds.randomness import generator
from tokenbounds.training.batches import sample

log = logging.getLogger(__name__)


def tuned(folder, codec, *, name, seed, tokens, device, contexts):
    """Prepare codec ``levels`` with tuning (see `tokenbounds.codecs.encode.code_model`)."""
    model, config = load_model(folder)
    levels, length = {key: codec[key] for key in ("levels", "method", "codebook")}, context_length_of(config)
    tensors, report = tune(
        model, tokens, **levels, **codec["tuning"], sequence_length=length, seed=seed, device=device
    )
    # k-means keeps the tuned codewords as they are
    return {"kind": "levels", **levels, "method": "kmeans"}, tensors, {"tuning": codec["tuning"] | report}


def tune(
    model,
    tokens,
    *,
    levels,
    method="uniform",
    codebook="tensor",
    steps,
    learning_rate=5e-5,
    centroid_learning_rate=None,
    momentum=0.9,
    batch_size,
    sequence_length,
    seed,
    eval_every=50,
    eval_batches=8,
    device="cpu",
):
    """Quantize a model, and tune centroids and weights to lower the loss of the quantized model.

    Parameters
    ----------
    model : torch.nn.Module
        With ``layout()``, (name, shape) of the tensors to quantize, each a parameter of that name, and
        ``forward(ids, targets)``, the mean loss in nats per token. A copy is used, in evaluation mode and in
        float32. Parameters outside the layout stay fixed.
    tokens : tokenbounds.corpus.store.TokenStore
        The training split; or anything with ``m`` (number of tokens) and ``tokens(start, stop)``.
    levels, method, codebook
        Options of `tokenbounds.codecs.levels.LevelsCodec`: they give the first codebooks, one per tensor or
        one in all.
    steps : int
        Number of SGD steps.
    learning_rate, momentum : float
        Options of SGD. The defaults are the paper's.
    centroid_learning_rate : float, optional
        Learning rate of the centroids; `learning_rate` by default. A centroid's gradient is a sum over
        thousands of weights: a rate that a centroid survives hardly moves a weight out of its cell.
    batch_size, sequence_length : int
        Sequences per batch, tokens per sequence.
    seed : int
        The run's seed, part of the names of the batches' random streams.
    eval_every : int
        Steps between evaluations; the last step is always evaluated.
    eval_batches : int
        Number of batches of an evaluation: always the same ones, drawn from a stream of their own.
    device : str
        A torch device, or ``"auto"``.

    Returns
    -------
    tensors : dict of str to ndarray of float32
        The best of the evaluated models, in layout order: float16 codewords, at most `levels` different ones
        per codebook. The quantized model before tuning (``codebook[symbols]`` of the quantizer) is evaluated
        first, so no result is worse on the batches of the evaluation. Code them with ``method: kmeans``,
        which keeps every value; uniform bins would move them.
    report : dict
        ``loss_before_nats``, ``loss_after_nats`` (mean nats per token of the evaluation), ``best_step`` (0:
        before tuning), ``steps``.

    Raises
    ------
    InputError
        Unknown or impossible options, too few tokens for one sequence, weights that cannot be quantized, a
        loss that is not finite.

    Notes
    -----
    Results are the same on every run with the same number of threads on a CPU; a GPU may add in another order
    and change the last bits.
    """
    LevelsCodec().check({"levels": levels, "method": method, "codebook": codebook})
    counts = {"steps": steps, "batch_size": batch_size, "sequence_length": sequence_length}
    for key, value in (counts | {"eval_every": eval_every, "eval_batches": eval_batches}).items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise InputError(f"{key} is {value!r}; expected a positive integer")
    centroid_learning_rate = learning_rate if centroid_learning_rate is None else centroid_learning_rate
    for key, value in {
        "learning_rate": learning_rate,
        "centroid_learning_rate": centroid_learning_rate,
    }.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{key} is {value!r}; expected a finite number, at least 0")
    if not 0 <= momentum < 1:
        raise InputError(f"momentum is {momentum!r}; expected a number in [0, 1)")
    if tokens.m <= sequence_length:
        expected = f"expected more than sequence_length = {sequence_length}"
        raise InputError(f"the training split has {tokens.m} tokens, {expected}")

    device = choose_device(device)
    net = copy.deepcopy(model).to(device, torch.float32).eval()
    parameters = dict(net.named_parameters())
    weights = {name: parameters[name].detach() for name, _ in net.layout()}
    groups = [weights] if codebook == "shared" else [{name: weight} for name, weight in weights.items()]
    runs = [Run(group, levels, method) for group in groups]
    rates = (
        {"params": list(weights.values())},
        {"params": [run.centroids for run in runs], "lr": centroid_learning_rate},
    )
    optimizer = torch.optim.SGD(rates, lr=learning_rate, momentum=momentum)

    def batch(*names):
        return sample(tokens, generator(seed, "tuning", *names), batch_size, sequence_length, device)

    held_out = [batch("evaluation", number) for number in range(eval_batches)]

    @torch.no_grad()
    def evaluate(values, step):
        return sum(_finite(functional_call(net, values, pair), step) for pair in held_out) / eval_batches

    best = {name: value for run in runs for name, value in run.start.items()}
    before = least = evaluate(best, 0)
    best_step = 0
    log.info("tuning: %d codebooks, nats per token before: %.4f", len(runs), before)
    for step in tqdm(range(1, steps + 1), desc="tuning", unit="step", disable=None):
        _finite(straight_through(net, runs, *batch(step)), step)
        optimizer.step()
        if step % eval_every == 0 or step == steps:
            values = {name: value for run in runs for name, value in run.quantized()[0].items()}
            loss = evaluate(values, step)
            log.info("tuning: step %d of %d, nats per token: %.4f", step, steps, loss)
            if loss < least:
                best, least, best_step = values, loss, step
    tensors = {name: value.cpu().numpy() for name, value in best.items()}
    for name, tensor in tensors.items():
        check_values(tensor, f"tuned tensor '{name}'")  # a loss can be finite although a weight is not
    return tensors, {
        "loss_before_nats": before,
        "loss_after_nats": least,
        "best_step": best_step,
        "steps": steps,
    }


class Run:
    """Tensors that share a codebook.

    Attributes
    ----------
    weights : dict of str to torch.Tensor
        Float32 weights, which the optimizer moves in place.
    centroids : torch.Tensor
        Float32 numbers behind the codewords, shape (K,), K <= levels, which the optimizer moves as well.
    start : dict of str to torch.Tensor
        Output of the quantizer. It may differ from `quantized()`: a uniform bin need not hold the values that
        are nearest to its mean.
    """

    def __init__(self, weights, levels, method):
        self.weights = weights
        flat = np.concatenate(
            [check_values(weight.cpu().numpy(), f"tensor '{name}'") for name, weight in weights.items()]
        )
        symbols, codebook = LevelsCodec.methods[method](flat, levels)
        first = next(iter(weights.values()))
        self.centroids = torch.from_numpy(codebook.astype(np.float32)).to(first.device)
        parts = (
            torch.from_numpy(codebook.astype(np.float32)[symbols])
            .to(first.device)
            .split([w.numel() for w in weights.values()])
        )
        self.start = {
            name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)
        }

    def quantized(self):
        """Return values (the nearest codeword of each weight, float32) and symbols (the number of its
        centroid, int64) by name."""
        # as in a message; adding zero makes -0.0 the same codeword as 0.0
        codewords = self.centroids.half().float() + 0.0
        ordered, order = codewords.sort(stable=True)  # centroids may overtake one another
        midpoints = (ordered[1:] + ordered[:-1]) / 2
        symbols = {
            name: order[torch.searchsorted(midpoints, weight.contiguous())]
            for name, weight in self.weights.items()
        }
        return {name: codewords[symbol] for name, symbol in symbols.items()}, symbols


def straight_through(net, runs, ids, targets):
    """Return the loss of the quantized model on a batch, and set ``grad`` of every weight and centroid.

    With g the gradient of the loss at the quantized weights, ``weight.grad = g``, and the gradient of a
    centroid is the sum of g over the weights to which it is nearest.

    Parameters
    ----------
    net : torch.nn.Module
        ``net(ids, targets)`` is the mean loss in nats per token.
    runs : list of Run
    ids, targets : torch.Tensor of int64, shape (B, T)

    Returns
    -------
    torch.Tensor
        The loss, a scalar without a graph.
    """
    values: dict[str, torch.Tensor] = {}
    symbols: dict[str, torch.Tensor] = {}
    for run in runs:
        for merged, new in zip((values, symbols), run.quantized(), strict=True):
            merged |= new
    loss = functional_call(
        net, {name: value.requires_grad_() for name, value in values.items()}, (ids, targets)
    )
    gradients = dict(
        zip(values, torch.autograd.grad(loss, list(values.values()), materialize_grads=True), strict=True)
    )
    for run in runs:
        # in float64, as a sum over a million weights in float32 keeps few digits
        sums = torch.zeros_like(run.centroids, dtype=torch.float64)
        for name, weight in run.weights.items():
            weight.grad = gradients[name]
            sums += torch.bincount(
                symbols[name].flatten(), gradients[name].flatten().double(), minlength=len(sums)
            )
        run.centroids.grad = sums.float()
    return loss.detach()


def _finite(loss, step):
    value = loss.item()
    if not math.isfinite(value):
        raise InputError(
            f"tuning: loss {value} at step {step}, expected a finite number (lower learning_rate?)"
        )
    return value
