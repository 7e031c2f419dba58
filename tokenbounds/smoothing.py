"""Prediction smoothing by a head: each token's weight from its context, trained on the bound itself (paper, section 4.4).

A weight is a function of the context only, so the theorems that allow it to vary (docs/theory.md, sections 3 and 4) hold for any head. The
head is trained after the model, on tokens other than those the certificate draws, and is part of the message.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tokenbounds.bounds import checks, search
from tokenbounds.bounds.complexity import split_delta
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.losses import BpdRecords, bpd_interval
from tokenbounds.bounds.subsampling import pilot_size
from tokenbounds.errors import InputError

_HELD_OUT = 5  # one part in this many picks the best iterate
_PICK_STEPS = 20  # between two choices from the grids
_INSIDE = 0.01  # logit; more than float16 rounds off
_ALMOST_ONE = 1 - 1e-6
_FLOAT16_MAX = 65504.0


class AlphaHead(nn.Module):
    """Smoothing weights ``alpha = clip(sigmoid(v . [h, H] + b), low, high)`` from final states h and entropies H in bits.

    Parameters
    ----------
    width : int
        W, the width of the states, or 0 for a head that sees the entropy alone: a much shorter message.
    low, high : float
        Declared clip, 0 < low < high < 1.

    Attributes
    ----------
    weight : torch.nn.Parameter, (W + 1,)
        v; its last component belongs to the entropy. Zero in a new head, as is the bias: alpha = 1/2, clipped.
    bias : torch.nn.Parameter, (1,)
    """

    def __init__(self, width, low, high):
        super().__init__()
        width = checks.integer("width", width, 0)
        self.low, self.high = checks.smoothing("low", low), checks.smoothing("high", high)
        if not self.low < self.high < 1:
            raise InputError(f"the range of alpha is {self.low} to {self.high}; expected the first below the second, and that below 1")
        self.weight = nn.Parameter(torch.zeros(width + 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def layout(self):
        """(name, shape) of every tensor, in a fixed order."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def forward(self, hidden, entropy_bits):
        """Weights (...) in [low, high], float64, of states (..., W) and entropies (...)."""
        weight = self.weight.double()
        logits = hidden[..., : len(weight) - 1].double() @ weight[:-1] + entropy_bits.double() * weight[-1] + self.bias.double()
        return torch.sigmoid(logits).clamp(self.low, self.high)


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

    The objective is the bound's own recipe (docs/theory.md, sections 3 to 5) with the training tokens in the place of the draws: AdamW on
    all tokens at once, and every few steps the bound's free parameters chosen from its grids anew. It starts at the best constant weight;
    the iterate with the least objective on a held-out fifth of the tokens is kept, its parameters rounded to float16 as they are coded.
    The result is a function of the arguments (and of the number of threads, in the last bits before that rounding).

    Parameters
    ----------
    hidden : array_like, (N, W)
        Final states of the model.
    log2_q, entropy_bits : array_like, (N,)
        log2 of the probability of the true token, and the entropy of the prediction. The last fifth of the tokens is held out, so tokens
        come in an order in which it is like the others, such as that in which they were drawn.
    vocab_size : int
        V.
    objective : {"betting", "azuma_rigorous"}
        The bound: `tokenbounds.bounds.betting_bpd` with entropies, or `tokenbounds.bounds.azuma_rigorous_bpd`.
    alpha_range : (float, float)
        Clip of the weights.
    complexity_nats : float
        L + ln 1/delta1 = kappa m > 0: all that the certificate pays for, the head's own message and the grids included.
    m, n : int
        Tokens in the corpus, and draws of the certificate, each of one token.
    delta : float
        Failure probability of the certificate.
    steps : int
        Of the optimiser.
    learning_rate : float
        For features of variance 1.
    grids : Grids, optional
        Those of the certificate; of ``grids.alpha`` the values inside `alpha_range` are tried as the start.

    Returns
    -------
    head : AlphaHead
        Parameters are float32 numbers that float16 holds exactly.
    history : list of dict
        ``step``, ``objective_bits`` on the tokens trained on and ``held_out_bits``; the first is the best constant weight.

    Raises
    ------
    InputError
        Arrays that differ in length, hold NaN or leave their ranges; fewer than 10 tokens; a parameter outside its range.
    """
    grids = grids or Grids()
    head = AlphaHead(np.shape(hidden)[-1] if np.ndim(hidden) == 2 else 0, *alpha_range)
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    tokens = _Tokens.checked(hidden, log2_q, entropy_bits, vocab_size)
    bound = _objective(objective, vocab_size, (head.low, head.high), complexity_nats, m, n, delta, grids)
    cut = len(tokens.log2_q) - len(tokens.log2_q) // _HELD_OUT
    trained_on, held_out = tokens.part(slice(None, cut)), tokens.part(slice(cut, None))

    centres, scales = _standardisation(trained_on.features)
    features = (trained_on.features - centres) / scales
    weight = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([_best_constant(bound, trained_on, head, grids.alpha)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=checks.real("learning_rate", learning_rate, 0), weight_decay=0.0)

    history, best = [], math.inf
    steps = checks.integer("steps", steps, 1)
    for step in range(steps + 1):
        if step % _PICK_STEPS == 0 or step == steps:
            _fill(head, weight.detach() / scales, bias.detach(), centres)
            with torch.no_grad():
                alphas, held_out_alphas = (head(part.features[:, :-1], part.entropy_bits) for part in (trained_on, held_out))
                choice = bound.choose(trained_on, alphas)
                values = bound.value(choice, trained_on, alphas).item(), bound.value(choice, held_out, held_out_alphas).item()
            history.append({"step": step, "objective_bits": values[0], "held_out_bits": values[1]})
            if values[1] < best:
                best, state = values[1], copy.deepcopy(head.state_dict())
        if step < steps:
            optimizer.zero_grad()
            bound.value(choice, trained_on, torch.sigmoid(features @ weight + bias).clamp(head.low, head.high)).backward()
            optimizer.step()
    head.load_state_dict(state)  # the first iterate at the least: its objective is finite
    return head, history


def choose_head(hidden, log2_q, entropy_bits, vocab_size, *, alpha_mins, alpha_max, **options):
    """The head, among those trained with each least weight of `alpha_mins`, whose held-out objective is least; for ties the first.

    The range is part of the message, so the choice costs nothing more. Other parameters and the result are as for `train_head`.
    """
    if len(alpha_mins) == 0:
        raise InputError("alpha_mins is empty; expected at least one value")
    trained = (train_head(hidden, log2_q, entropy_bits, vocab_size, alpha_range=(low, alpha_max), **options) for low in alpha_mins)
    return min(trained, key=lambda result: min(row["held_out_bits"] for row in result[1]))


@dataclass(frozen=True)
class _Tokens:
    """Tokens to train on: states and entropies side by side (N, W + 1), and log2 q (N,), float64."""

    features: torch.Tensor
    log2_q: torch.Tensor

    @classmethod
    def checked(cls, hidden, log2_q, entropy_bits, vocab_size):
        log2_q = checks.inside("log2_q", checks.draws("log2_q", log2_q), -math.inf, 0.0)
        if log2_q.shape[1] != 1 or len(log2_q) < 10:
            raise InputError(f"log2_q has shape {log2_q.shape}; expected one number for each of at least 10 tokens")
        entropies = checks.entropies(entropy_bits, "log2_q", log2_q, math.log2(vocab_size))
        hidden = np.asarray(hidden, dtype=np.float64)
        if hidden.ndim != 2 or len(hidden) != len(log2_q):
            raise InputError(f"hidden has shape {hidden.shape}; expected ({len(log2_q)}, W), a row for each token of log2_q")
        if not np.isfinite(hidden).all():
            raise InputError(f"hidden holds {float(hidden[~np.isfinite(hidden)][0])}; expected finite numbers")
        return cls(torch.from_numpy(np.hstack([hidden, entropies])), torch.from_numpy(log2_q[:, 0]))

    @property
    def entropy_bits(self):
        return self.features[:, -1]

    def part(self, index):
        return _Tokens(self.features[index], self.log2_q[index])


def _standardisation(features):
    """Mean and standard deviation of each feature; one that hardly varies counts as it is, lest its weight leave the range of float16."""
    scales = features.std(dim=0, correction=0)
    return features.mean(dim=0), scales.clamp(min=1e-3 * max(scales.max().item(), 1e-3))


def _best_constant(bound, tokens, head, grid):
    """Logit of the best constant weight: the least allowed, or one of the grid."""
    weights = sorted({head.low, *(alpha for alpha in grid if head.low < alpha <= head.high)})

    def value(alpha):
        alphas = torch.full_like(tokens.log2_q, alpha)
        return bound.value(bound.choose(tokens, alphas), tokens, alphas).item()

    logit, low, high = (math.log(alpha / (1 - alpha)) for alpha in np.minimum([min(weights, key=value), head.low, head.high], _ALMOST_ONE))
    # a little inside the clip: at it rounding would decide whether there is a gradient
    return min(max(logit, low + _INSIDE), high - _INSIDE)


def _fill(head, weight, bias, centres):
    """Give the head float16 numbers; the bias makes up for the rounding of the weights at the mean of the features."""
    weight = weight.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()
    bias = (bias - weight.double() @ centres).clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()
    head.load_state_dict({"weight": weight.float(), "bias": bias.float()})


# ---------------------------------------------------------------- the bounds, differentiable in the weights


def _objective(objective, vocab_size, alpha_range, complexity_nats, m, n, delta, grids):
    n, m = checks.integer("n", n, 2), checks.integer("m", m, 1)
    kappa = checks.real("complexity_nats", complexity_nats) / m
    if kappa <= 0:
        raise InputError(f"complexity_nats is {complexity_nats!r}; expected a number above 0")
    log_price = -math.log(split_delta(delta)[1]) / (n - pilot_size(n))
    kinds = {"betting": _Betting, "azuma_rigorous": _RigorousAzuma}
    if objective not in kinds:
        raise InputError(f"objective is {objective!r}; expected one of {', '.join(kinds)}")
    return kinds[objective](vocab_size, alpha_range, kappa, log_price, grids)


@dataclass(frozen=True)
class _Bound:
    """A bound as a function of weights: `choose` its free parameters from the grids, then its `value` is differentiable in the weights.

    Not capped at the largest loss, so that there is a gradient wherever it is.
    """

    vocab_size: int
    alpha_range: tuple
    kappa: float
    log_price: float  # ln(1 / delta2) / n2 of the certificate
    grids: Grids

    @property
    def interval(self):
        return bpd_interval(self.alpha_range[0], self.vocab_size)

    def losses(self, log2_q, alphas):
        """(X, low_i, high_i) of docs/theory.md, section 1, each (N,)."""
        lows = -torch.log1p(-alphas * (1 - 1 / self.vocab_size)) / math.log(2)
        highs = math.log2(self.vocab_size) - torch.log2(alphas)
        return -torch.log2((1 - alphas) * torch.exp2(log2_q) + alphas / self.vocab_size), lows, highs

    def sampled(self, values, low, high, b):
        """Step 3 of the recipe: an upper limit for the corpus mean of `values` (N,) in [low, high], for as many draws as will be made."""
        unit = (values - low) / (high - low)
        return low + (high - low) * -torch.expm1(torch.log1p(-b * unit).mean() - self.log_price) / b

    def best_b(self, values, low, high):
        return min(self.grids.b, key=lambda b: self.sampled(values, low, high, b).item())


class _Betting(_Bound):
    """Theorem C with subsampling; `choose` returns (a, (beta1, beta2, width), b)."""

    def choose(self, tokens, alphas):
        log2_q, weights, entropies = (tensor.numpy()[:, None] for tensor in (tokens.log2_q, alphas, tokens.entropy_bits))
        records = BpdRecords(log2_q, self.vocab_size, (None,), weights, self.alpha_range)
        forms = search.forms(self.grids, centred=True)
        _, a, form, _ = search.best(records, entropies, slice(None), self.kappa, np.asarray(self.grids.a), forms)
        values, high, _ = self.linear_form(a, form, tokens, alphas)
        return a, form, self.best_b(values, self.interval[0], high)

    def linear_form(self, a, form, tokens, alphas):
        """Z (N,) with its upper end, and the constant that is added to its mean."""
        low, high = self.interval
        beta1, beta2, width = form[0], form[1], form[2] * (high - low)
        losses, lows, highs = self.losses(tokens.log2_q, alphas)
        wanted = low + tokens.entropy_bits * (beta1 + beta2 * tokens.entropy_bits)
        centre = torch.minimum(torch.maximum(wanted, torch.maximum(lows, highs - width)), highs)
        logs = torch.log1p(a / width * (centre - losses))
        g0 = (logs.mean() - self.kappa).clamp(max=0.0)
        top = (high - width - g0.exp() * math.log1p(-a) * width / a).clamp(min=high)
        constant = (g0.exp() * (self.kappa + g0) - torch.expm1(g0)) * width / a
        return centre - g0.exp() * logs * (width / a), top, constant

    def value(self, choice, tokens, alphas):
        a, form, b = choice
        values, high, constant = self.linear_form(a, form, tokens, alphas)
        return self.sampled(values, self.interval[0], high, b) + constant


class _RigorousAzuma(_Bound):
    """The supermartingale for varying intervals with subsampling; `choose` returns (lambda, b)."""

    def choose(self, tokens, alphas):
        low, high = self.interval
        _, lows, highs = self.losses(tokens.log2_q, alphas)
        square = (highs - lows).square().mean().item()
        multipliers = [2 ** (j / 2) * math.sqrt(8 * self.kappa) / (high - low) for j in self.grids.lambda_exponents]
        multiplier = min(multipliers, key=lambda multiplier: multiplier * square / 8 + self.kappa / multiplier)
        return multiplier, self.best_b(*self.penalised(multiplier, tokens, alphas))

    def penalised(self, multiplier, tokens, alphas):
        """T (N,) with its interval."""
        low, high = self.interval
        losses, lows, highs = self.losses(tokens.log2_q, alphas)
        return losses + multiplier * (highs - lows).square() / 8, low, high + multiplier * (high - low) ** 2 / 8

    def value(self, choice, tokens, alphas):
        multiplier, b = choice
        return self.sampled(*self.penalised(multiplier, tokens, alphas), b) + self.kappa / multiplier
