"""Bounds as differentiable functions of smoothing weights: objectives to train a smoothing head on.

A method of `tokenbounds.bounds.methods` has an objective if `OBJECTIVES` lists one under its name.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from tokenbounds.bounds import Bpd, Grids, checks, pilot_size, search, split_delta
from tokenbounds.bounds.azuma_bounds import AzumaRigorous, multipliers
from tokenbounds.bounds.betting_bounds import Betting
from tokenbounds.bounds.losses import bpd_interval
from tokenbounds.errors import InputError


@dataclass(frozen=True)
class Objective:
    """Bound as a function of weights: `choose` its free parameters, then `value` is differentiable.

    Not capped at the largest loss, so that there is a gradient everywhere.

    Attributes
    ----------
    vocab_size : int
    alpha_range : (float, float)
        Declared clip of the weights.
    kappa : float
        Complexity per token of the certificate, in nats.
    draws_nats : float
        ln(1 / delta2) / n2 of the certificate.
    grids : Grids
    """

    vocab_size: int
    alpha_range: tuple
    kappa: float
    draws_nats: float
    grids: Grids

    @property
    def interval(self):
        """Interval of all losses."""
        return bpd_interval(self.alpha_range[0], self.vocab_size)

    def choose(self, tokens, alphas):
        """Choose the free parameters from the grids, for weights `alphas` (N,)."""
        raise NotImplementedError

    def value(self, choice, tokens, alphas):
        """Compute the bound in bits."""
        raise NotImplementedError

    def losses(self, log2_q, alphas):
        """Compute (X, low_i, high_i) of docs/theory.md, section 1, each (N,)."""
        lows = -torch.log1p(-alphas * (1 - 1 / self.vocab_size)) / math.log(2)
        highs = math.log2(self.vocab_size) - torch.log2(alphas)
        return -torch.log2((1 - alphas) * torch.exp2(log2_q) + alphas / self.vocab_size), lows, highs

    def sampled(self, values, low, high, b):
        """Bound the corpus mean of `values` (N,) in [low, high] as the certificate will: step 3."""
        unit = (values - low) / (high - low)
        return low + (high - low) * -torch.expm1(torch.log1p(-b * unit).mean() - self.draws_nats) / b

    def best_b(self, values, low, high):
        """Choose the bet size for the mean over the draws."""
        return min(self.grids.sampling_bet_sizes, key=lambda b: self.sampled(values, low, high, b).item())


class BettingObjective(Objective):
    """Theorem C with subsampling; `choose` returns (a, centre, b)."""

    def choose(self, tokens, alphas):
        """Choose bet, centre and b."""
        arrays = tokens.log2_q, alphas, tokens.entropy_bits
        log2_q, weights, entropies = (tensor.numpy() for tensor in arrays)
        losses = Bpd(log2_q, self.vocab_size, entropies, weights, self.alpha_range)
        centres, bets = search.centres(self.grids, centred=True), np.asarray(self.grids.bet_sizes)
        _, a, centre, _ = search.best(losses, slice(None), self.kappa, bets, (None,), centres)
        values, high, _ = self.linear_form(a, centre, tokens, alphas)
        return a, centre, self.best_b(values, self.interval[0], high)

    def linear_form(self, a, centre, tokens, alphas):
        """Compute Z (N,), its upper end, and the constant that is added to its mean."""
        low, high = self.interval
        width = centre.width * (high - low)
        losses, lows, highs = self.losses(tokens.log2_q, alphas)
        unclipped = low + tokens.entropy_bits * (centre.linear + centre.quadratic * tokens.entropy_bits)
        c = torch.minimum(torch.maximum(unclipped, torch.maximum(lows, highs - width)), highs)
        logs = torch.log1p(a / width * (c - losses))
        g0 = (logs.mean() - self.kappa).clamp(max=0.0)
        top = (high - width - g0.exp() * math.log1p(-a) * width / a).clamp(min=high)
        constant = (g0.exp() * (self.kappa + g0) - torch.expm1(g0)) * width / a
        return c - g0.exp() * logs * (width / a), top, constant

    def value(self, choice, tokens, alphas):
        """Compute the bound in bits."""
        a, centre, b = choice
        values, high, constant = self.linear_form(a, centre, tokens, alphas)
        return self.sampled(values, self.interval[0], high, b) + constant


class RigorousAzumaObjective(Objective):
    """The supermartingale for varying intervals with subsampling; `choose` returns (lambda, b)."""

    def choose(self, tokens, alphas):
        """Choose lambda and b."""
        _, lows, highs = self.losses(tokens.log2_q, alphas)
        square = (highs - lows).square().mean().item()
        grid = multipliers(self.grids.lambda_exponents).tolist()
        best = min(grid, key=lambda multiplier: multiplier * square / 8 + self.kappa / multiplier)
        return best, self.best_b(*self.penalised(best, tokens, alphas))

    def penalised(self, multiplier, tokens, alphas):
        """Compute T (N,) and its interval."""
        low, high = self.interval
        losses, lows, highs = self.losses(tokens.log2_q, alphas)
        penalty = multiplier * (highs - lows).square() / 8
        return losses + penalty, low, high + multiplier * (high - low) ** 2 / 8

    def value(self, choice, tokens, alphas):
        """Compute the bound in bits."""
        multiplier, b = choice
        return self.sampled(*self.penalised(multiplier, tokens, alphas), b) + self.kappa / multiplier


OBJECTIVES = {Betting.name: BettingObjective, AzumaRigorous.name: RigorousAzumaObjective}


def objective_of(method, vocab_size, alpha_range, complexity_nats, m, n, delta, grids):
    """Build the objective of a method; parameters as for `tokenbounds.smoothing.train.train_head`."""
    n, m = checks.integer("n", n, 2), checks.integer("m", m, 1)
    kappa = checks.real("complexity_nats", complexity_nats) / m
    if kappa <= 0:
        raise InputError(f"complexity_nats is {complexity_nats!r}; expected a number above 0")
    if method not in OBJECTIVES:
        raise InputError(f"objective is {method!r}; expected one of {', '.join(OBJECTIVES)}")
    draws_nats = -math.log(split_delta(delta)[1]) / (n - pilot_size(n))
    return OBJECTIVES[method](vocab_size, alpha_range, kappa, draws_nats, grids)
