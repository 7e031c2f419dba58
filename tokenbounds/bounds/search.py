"""Step 1 of the recipe: the best smoothing, bet and centre on the pilot (docs/theory.md, sections 4 and 5).

The corpus event covers every point of the grids at once, so any search is allowed; this one is exact on
pilots of up to `COARSE_VALUES` losses and goes from an evenly spaced subset to the whole pilot on larger
ones. It is deterministic.
"""

import itertools
from typing import NamedTuple

import numpy as np

from tokenbounds.bounds.draws import Sample

COARSE_VALUES = 4096
FINALISTS = 32
_BLOCK = 1 << 20  # log1p values held at once


class Centre(NamedTuple):
    """Form of the centre of the bets: coefficients of the entropy and its square, and w / D."""

    linear: float
    quadratic: float
    width: float

    def at(self, sample, entropies):
        """Compute ``c = clip(low + linear H + quadratic H^2, max(low_i, high_i - w), high_i)``.

        Here ``w = width (high - low)``. Returns (n, S), or a scalar without entropies H.
        """
        least = np.maximum(sample.lows, sample.highs - self.width * sample.range)
        return np.clip(self._unclipped(sample, entropies), least, sample.highs)

    def ends(self, sample, entropies, epsilon):
        """Compute the least and the greatest centre that entropies and weights known up to an error allow.

        The least is not below ``X - w``: lower centres, which X rules out, have a lower Z than that one.
        """
        w = self.width * sample.range
        inner_lows, inner_highs = sample.inner or (sample.lows, sample.highs)
        low, high = self._unclipped_ends(sample, entropies, epsilon)
        least = np.clip(low, np.maximum(sample.lows, inner_highs - w), inner_highs)
        greatest = np.clip(high, np.maximum(inner_lows, sample.highs - w), sample.highs)
        return np.maximum(least, sample.values - w), greatest

    def _unclipped(self, sample, entropies):
        if entropies is None:
            return sample.low
        return sample.low + entropies * (self.linear + self.quadratic * entropies)

    def _unclipped_ends(self, sample, entropies, epsilon):
        if entropies is None:
            return sample.low, sample.low
        low, high = entropies - epsilon, entropies + epsilon
        values = [self._unclipped(sample, low), self._unclipped(sample, high)]
        if self.quadratic:  # the parabola may turn in between
            turn = np.clip(-self.linear / (2 * self.quadratic), low, high)
            values.append(self._unclipped(sample, turn))
        return np.minimum.reduce(values), np.maximum.reduce(values)


class EntropyCentre(NamedTuple):
    """The entropy itself, clipped to the interval of all losses: the centre of the Freedman bound."""

    width: float = 1.0

    def at(self, sample, entropies):
        """Compute ``Y = clip(H, low, high)``, (n, S)."""
        return np.clip(entropies, sample.low, sample.high)

    def ends(self, sample, entropies, epsilon):
        """Compute the least and the greatest centre that entropies known up to an error allow."""
        return self.at(sample, entropies - epsilon), self.at(sample, entropies + epsilon)


NO_CENTRE = Centre(0.0, 0.0, 1.0)  # makes Theorem C into Theorem A


def centres(grids, centred):
    """List every centre of the grids; without centring only `NO_CENTRE`."""
    if not centred:
        return [NO_CENTRE]
    forms = itertools.product(grids.centre_linear, grids.centre_quadratic, grids.centre_widths)
    return [Centre(*form) for form in forms]


def product_value(centre_mean, g, multipliers):
    """Evaluate Theorem C, ``c_mean + (1 - e^g) / lambda``."""
    return centre_mean - np.expm1(g) / multipliers


def linear_value(centre_mean, g, multipliers):
    """Evaluate its linear form at g0 = 0, ``c_mean - g / lambda``, which is never less."""
    return centre_mean - g / multipliers


def centred_values(sample, entropies, kappa, bets, centre, value=product_value):
    """Evaluate Theorem C with the draws in the place of the corpus.

    Parameters
    ----------
    sample : Sample
    entropies : numpy.ndarray, (n, S), or None
    kappa : float
        Complexity per token in nats.
    bets : numpy.ndarray, (k,)
        Bet sizes a.
    centre : Centre or EntropyCentre
    value : callable
        `product_value` or `linear_value`.

    Returns
    -------
    values, g : numpy.ndarray, (k,)
        For each bet the value, with ``g = mean ln(1 + lambda (c - X)) - kappa``, and g.
    """
    width = centre.width * sample.range
    c = centre.at(sample, entropies)
    distances = ((c - sample.values) / width).ravel()
    block = max(1, _BLOCK // len(bets))
    mean_logs = np.zeros(len(bets))
    for start in range(0, distances.size, block):
        mean_logs += np.log1p(np.multiply.outer(bets, distances[start : start + block])).sum(axis=1)
    g = mean_logs / distances.size - kappa
    return value(np.mean(c), g, bets / width), g


def best(losses, part, kappa, bets, options, centres, value=product_value):
    """Find the option, bet and centre with the least value on the pilot.

    Parameters
    ----------
    losses : Losses
    part : slice
        The pilot.
    kappa : float
        Complexity per token in nats.
    bets : numpy.ndarray, (k,)
        Bet sizes.
    options : sequence
        Smoothings to choose from.
    centres : list of Centre or EntropyCentre
    value : callable
        `product_value` or `linear_value`.

    Returns
    -------
    option, bet, centre, g
    """
    samples = [losses.sample(option, part) for option in options]
    entropies = None if losses.entropies is None else losses.entropies[part]
    size = samples[0].values.size
    thin = None if size <= COARSE_VALUES else np.linspace(0, size - 1, COARSE_VALUES).astype(np.int64)
    values, gs = np.full((2, len(samples), len(centres), len(bets)), np.inf)
    for i, sample in enumerate(samples):
        if sample.trivial:  # alpha = 1 leaves nothing to bet on
            values[i], gs[i] = sample.high, 0.0
            continue
        coarse, coarse_entropies = (sample, entropies) if thin is None else _thinned(sample, entropies, thin)
        for j, centre in enumerate(centres):
            values[i, j], gs[i, j] = centred_values(coarse, coarse_entropies, kappa, bets, centre, value)
    order = np.argsort(values, axis=None, kind="stable")
    winner = np.unravel_index(order[0], values.shape)
    if thin is not None:
        finalists = [np.unravel_index(flat, values.shape) for flat in order[:FINALISTS]]
        for i, j, k in finalists:
            if not samples[i].trivial:
                exact = centred_values(samples[i], entropies, kappa, bets[k : k + 1], centres[j], value)
                values[i, j, k], gs[i, j, k] = (array[0] for array in exact)
        winner = min(finalists, key=lambda index: values[index])
    i, j, k = winner
    return options[i], float(bets[k]), centres[j], float(gs[winner])


def _thinned(sample, entropies, index):
    """Select the losses (and entropies) at the flat positions `index`, as (len(index), 1)."""

    def take(array):
        return np.ravel(array)[index][:, None] if np.ndim(array) else array

    thin = Sample(take(sample.values), sample.low, sample.high, take(sample.lows), take(sample.highs))
    return thin, None if entropies is None else take(entropies)
