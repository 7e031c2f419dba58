"""Prediction smoothing by a head: a weight for each context, trained on the bound itself (paper, 4.4).

A weight is a function of the context only, so the theorems that allow it to vary (docs/theory.md, sections 3
and 4) hold for any head. The head is trained after the model, on other tokens than the certificate draws, and
is part of the message.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch

from tokenbounds.bounds import Grids, checks
from tokenbounds.errors import InputError
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.smoothing.objectives import objective_of

_HELD_OUT = 5  # one part in this many picks the best iterate
_PICK_STEPS = 20  # between two choices from the grids
_INSIDE = 0.01  # logit; more than the rounding of float16
_ALMOST_ONE = 1 - 1e-6
_FLOAT16_MAX = 65504.0


def train_head(
    hidden,
    log2_q,
    entropy_bits,
    vocab_size,
    *,
    objective,
    alpha_range,
    complexity_nats,
    m,
    n,
    delta=0.05,
    steps=200,
    learning_rate=0.01,
    grids=None,
):
    """Train a smoothing head to minimise a bound, the model frozen.

    The objective is the bound's own recipe (docs/theory.md, sections 3 to 5) with the training tokens in the
    place of the draws: AdamW on all tokens at once, and every few steps the bound's free parameters chosen
    from its grids anew. Training starts at the best constant weight; the iterate with the least objective on
    a held-out fifth of the tokens is kept, its parameters rounded to float16 as they are coded. The result is
    a function of the arguments (and of the number of threads, in the last bits before that rounding).

    Parameters
    ----------
    hidden : array_like, (N, W)
        Final states of the model.
    log2_q, entropy_bits : array_like, (N,)
        log2 of the probability of the true token, and the entropy of the prediction. The last fifth of the
        tokens is held out, so they come in an order in which it is like the others, such as the order of
        drawing.
    vocab_size : int
        V.
    objective : str
        Name of the bound: a key of `tokenbounds.smoothing.objectives.OBJECTIVES`.
    alpha_range : (float, float)
        Clip of the weights.
    complexity_nats : float
        L + ln 1/delta1 = kappa m > 0 of the certificate, the head's own message and the grids included.
    m, n : int
        Tokens in the corpus, and draws of the certificate, each of one token.
    delta : float
        Failure probability of the certificate.
    steps : int
        Steps of the optimiser.
    learning_rate : float
        Learning rate for features of variance 1.
    grids : Grids, optional
        Grids of the certificate; the values of ``grids.alpha`` inside `alpha_range` are tried as the start.

    Returns
    -------
    head : AlphaHead
        Parameters are float32 numbers that float16 holds exactly.
    history : list of dict
        ``step``, ``objective_bits`` on the tokens trained on and ``held_out_bits``; the first is the best
        constant weight.

    Raises
    ------
    InputError
        Arrays that differ in length, hold NaN or leave their ranges; fewer than 10 tokens; a parameter
        outside its range.
    """
    grids = grids or Grids()
    head = AlphaHead(np.shape(hidden)[-1] if np.ndim(hidden) == 2 else 0, *alpha_range)
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    tokens = _Tokens.checked(hidden, log2_q, entropy_bits, vocab_size)
    bound = objective_of(objective, vocab_size, (head.low, head.high), complexity_nats, m, n, delta, grids)
    cut = len(tokens.log2_q) - len(tokens.log2_q) // _HELD_OUT
    trained_on, held_out = tokens.part(slice(None, cut)), tokens.part(slice(cut, None))

    centres, scales = _standardisation(trained_on.features)
    features = (trained_on.features - centres) / scales
    weight = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    start = _best_constant(bound, trained_on, head, grids.alpha)
    bias = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    learning_rate = checks.real("learning_rate", learning_rate, 0)
    optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=0.0)

    history, best = [], math.inf
    steps = checks.integer("steps", steps, 1)
    for step in range(steps + 1):
        if step % _PICK_STEPS == 0 or step == steps:
            _fill(head, weight.detach() / scales, bias.detach(), centres)
            with torch.no_grad():
                parts = trained_on, held_out
                alphas = [head(part.features[:, :-1], part.entropy_bits) for part in parts]
                choice = bound.choose(trained_on, alphas[0])
                pairs = zip(parts, alphas, strict=True)
                objective_bits, held_out_bits = (bound.value(choice, *pair).item() for pair in pairs)
            history.append({"step": step, "objective_bits": objective_bits, "held_out_bits": held_out_bits})
            if held_out_bits < best:
                best, state = held_out_bits, copy.deepcopy(head.state_dict())
        if step < steps:
            optimizer.zero_grad()
            weights = torch.sigmoid(features @ weight + bias).clamp(head.low, head.high)
            bound.value(choice, trained_on, weights).backward()
            optimizer.step()
    head.load_state_dict(state)  # the first iterate at the least: its objective is finite
    return head, history


def choose_head(hidden, log2_q, entropy_bits, vocab_size, *, alpha_mins, alpha_max, **options):
    """Train a head with each least weight of `alpha_mins` and select the least held-out objective.

    For ties the first. The range is part of the message, so the choice needs no further complexity term.
    Other parameters and the result are as for `train_head`.
    """
    if len(alpha_mins) == 0:
        raise InputError("alpha_mins is empty; expected at least one value")
    arrays = hidden, log2_q, entropy_bits
    trained = (train_head(*arrays, vocab_size, alpha_range=(low, alpha_max), **options) for low in alpha_mins)
    return min(trained, key=least_held_out)


def least_held_out(result):
    """Look up the least held-out objective of a head and its history."""
    return min(row["held_out_bits"] for row in result[1])


@dataclass(frozen=True)
class _Tokens:
    """Tokens to train on: states and entropies side by side (N, W + 1), and log2 q (N,), float64."""

    features: torch.Tensor
    log2_q: torch.Tensor

    @classmethod
    def checked(cls, hidden, log2_q, entropy_bits, vocab_size):
        """Check arrays from user input."""
        log2_q = checks.inside("log2_q", checks.draws("log2_q", log2_q), -math.inf, 0.0)
        if log2_q.shape[1] != 1 or len(log2_q) < 10:
            expected = "one number for each of at least 10 tokens"
            raise InputError(f"log2_q has shape {log2_q.shape}; expected {expected}")
        entropies = checks.entropies(entropy_bits, "log2_q", log2_q, math.log2(vocab_size))
        hidden = np.asarray(hidden, dtype=np.float64)
        if hidden.ndim != 2 or len(hidden) != len(log2_q):
            expected = f"({len(log2_q)}, W), a row for each token of log2_q"
            raise InputError(f"hidden has shape {hidden.shape}; expected {expected}")
        if not np.isfinite(hidden).all():
            first = float(hidden[~np.isfinite(hidden)][0])
            raise InputError(f"hidden holds {first}; expected finite numbers")
        return cls(torch.from_numpy(np.hstack([hidden, entropies])), torch.from_numpy(log2_q[:, 0]))

    @property
    def entropy_bits(self):
        """Entropies (N,)."""
        return self.features[:, -1]

    def part(self, index):
        """Select tokens."""
        return _Tokens(self.features[index], self.log2_q[index])


def _standardisation(features):
    """Compute mean and standard deviation of each feature.

    The deviation has a least value: the weight of a feature that hardly varies must stay in the range of
    float16.
    """
    scales = features.std(dim=0, correction=0)
    return features.mean(dim=0), scales.clamp(min=1e-3 * max(scales.max().item(), 1e-3))


def _best_constant(bound, tokens, head, grid):
    """Find the logit of the best constant weight: the least allowed, or one of the grid."""
    weights = sorted({head.low, *(alpha for alpha in grid if head.low < alpha <= head.high)})

    def value(alpha):
        alphas = torch.full_like(tokens.log2_q, alpha)
        return bound.value(bound.choose(tokens, alphas), tokens, alphas).item()

    best = np.minimum([min(weights, key=value), head.low, head.high], _ALMOST_ONE)
    logit, low, high = (math.log(alpha / (1 - alpha)) for alpha in best)
    # A little inside the clip: at its end rounding would decide whether there is a gradient.
    return min(max(logit, low + _INSIDE), high - _INSIDE)


def _fill(head, weight, bias, centres):
    """Give the head float16 numbers; the bias corrects the weights' rounding at the mean of the features."""
    weight = weight.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()
    bias = (bias - weight.double() @ centres).clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})
