"""Linear form of the product bounds: from choices to the terms of a bound (docs/theory.md, 4, 5, 13)."""

import math

import numpy as np

from tokenbounds.bounds.subsampling import pilot_size, sampled_mean_upper


def linear_form(centre, a, g0, sample, entropies, epsilon=0.0):
    """Compute ``Z = c - e^g0 ln(1 + lambda (c - X)) / lambda`` with ``lambda = a / w``, token by token.

    Where entropies or weights are known up to an error, Z is the larger one of those at the two ends of the
    centre: Z is convex in c, so no centre in between has a larger one.

    Parameters
    ----------
    centre : Centre or EntropyCentre
    a, g0 : float
        Bet size, and the point g0 <= 0 of the tangent.
    sample : Sample
    entropies : numpy.ndarray, (n, S), or None
    epsilon : float
        Error of the entropies.

    Returns
    -------
    numpy.ndarray, (n, S)

    Examples
    --------
    >>> from tokenbounds.bounds import Bounded, search
    >>> sample = Bounded([0.25, 1.0], low=0, high=1).sample(None)
    >>> linear_form(search.NO_CENTRE, 0.5, 0.0, sample, None)[:, 0].round(3).tolist()
    [0.267, 1.386]
    """
    width = centre.width * sample.range

    def at(c):
        return c - math.exp(g0) * np.log1p(a / width * (c - sample.values)) * (width / a)

    if sample.inner is None and not (epsilon and entropies is not None):
        return at(centre.at(sample, entropies))
    return np.maximum(*map(at, centre.ends(sample, entropies, epsilon)))


def linear_terms(losses, option, a, centre, g0, kappa, delta2, grids):
    """Compute the terms of a bound from values chosen on the pilot: steps 2 to 4 of section 5.

    Parameters
    ----------
    losses : Losses
    option
        Chosen smoothing.
    a : float
        Chosen bet size.
    centre : Centre or EntropyCentre
    g0 : float
        Point of the tangent, <= 0.
    kappa : float
        Complexity per token in nats.
    delta2 : float
        Failure probability of the draws.
    grids : Grids
        For the bet sizes b of the mean over the draws.

    Returns
    -------
    pilot : Sample
        Losses of the pilot.
    risk : float
        Mean loss of the draws after the pilot.
    terms : (float, float)
        Complexity term and subsample term.
    b : float or None
        None where every loss is the same (alpha = 1).
    """
    n_pilot = pilot_size(losses.shape[0])
    parts = slice(None, n_pilot), slice(n_pilot, None)
    pilot, rest = (losses.sample(option, part) for part in parts)
    low, high = pilot.low, pilot.high
    if pilot.trivial:  # alpha = 1: every loss is log2 V
        return pilot, high, (0.0, 0.0), None
    risk, width = float(rest.values.mean()), centre.width * pilot.range

    def z_means(sample, part):
        entropies = None if losses.entropies is None else losses.entropies[part]
        return linear_form(centre, a, g0, sample, entropies, losses.entropy_epsilon).mean(axis=1)

    z_high = max(high, high - width - math.exp(g0) * math.log1p(-a) * width / a)
    z_pilot, z_rest = (z_means(sample, part) for sample, part in zip((pilot, rest), parts, strict=True))
    z_upper, b = sampled_mean_upper(z_pilot, z_rest, low, z_high, grids.sampling_bet_sizes, delta2)
    # [1 - e^g0 (1 - kappa - g0)] / lambda, written so that small g0 and kappa keep their digits
    constant = (math.exp(g0) * (kappa + g0) - math.expm1(g0)) * width / a
    z_mean = float(z_rest.mean())
    return pilot, risk, (z_mean + constant - risk, z_upper - z_mean), b
