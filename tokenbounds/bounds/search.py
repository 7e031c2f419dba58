"""Step 1 of the recipe: the best smoothing, bet and centre on the pilot (docs/theory.md, sections 4 and 5).

The corpus event covers every point of the grids at once, so any way of choosing is allowed; this one is exact on pilots of up to
`COARSE_VALUES` losses and goes from an evenly spaced subset to the whole pilot on larger ones. It is deterministic.
"""

import itertools

import numpy as np

COARSE_VALUES = 4096
FINALISTS = 32
_BLOCK = 1 << 20  # log1p values held at once


def forms(grids, centred):
    """Every (beta1, beta2, width) of the grids; without centring only the one that makes Theorem C into Theorem A."""
    return list(itertools.product(grids.beta1, grids.beta2, grids.width)) if centred else [(0.0, 0.0, 1.0)]


def centre(losses, entropies, beta1, beta2, width):
    """``c = clip(low + beta1 H + beta2 H^2, max(low_i, high_i - w), high_i)``, w = width (high - low); (n, S) or a scalar without H."""
    wanted = losses.low if entropies is None else losses.low + entropies * (beta1 + beta2 * entropies)
    return np.clip(wanted, np.maximum(losses.lows, losses.highs - width * losses.range), losses.highs)


def centred_values(losses, entropies, kappa, a, form):
    """For each bet in `a` (k,): ``c_mean + (1 - e^g) / lambda`` with ``g = mean ln(1 + lambda (c - X)) - kappa``, and g; two (k,) arrays.

    This is Theorem C with the draws in the place of the corpus.
    """
    width = form[2] * losses.range
    c = centre(losses, entropies, *form)
    distances = ((c - losses.values) / width).ravel()
    mean_logs = np.zeros(len(a))
    for start in range(0, distances.size, max(1, _BLOCK // len(a))):
        block = distances[start : start + max(1, _BLOCK // len(a))]
        mean_logs += np.log1p(np.multiply.outer(a, block)).sum(axis=1)
    g = mean_logs / distances.size - kappa
    return np.mean(c) - np.expm1(g) * width / a, g


def best(records, entropies, part, kappa, a, forms):
    """The (option, a, form) with the least value on the pilot, and its g.

    Parameters
    ----------
    records : BoundedRecords or BpdRecords
        Give the losses of the slice `part` under each of their options.
    entropies : numpy.ndarray, (n, S), or None
    part : slice
        The pilot.
    kappa : float
        Price per token in nats.
    a : numpy.ndarray, (k,)
        Bet sizes.
    forms : list of (beta1, beta2, width)

    Returns
    -------
    option, a, form, g
    """
    every = [records.losses(option, part) for option in records.options]
    pilot_entropies = None if entropies is None else entropies[part]
    size = every[0].values.size
    thin = None if size <= COARSE_VALUES else np.linspace(0, size - 1, COARSE_VALUES).astype(np.int64)
    values, gs = np.full((2, len(every), len(forms), len(a)), np.inf)
    for i, losses in enumerate(every):
        if losses.trivial:  # alpha = 1 leaves nothing to bet on
            values[i], gs[i] = losses.high, 0.0
            continue
        coarse, coarse_entropies = (losses, pilot_entropies) if thin is None else _thinned(losses, pilot_entropies, thin)
        for j, form in enumerate(forms):
            values[i, j], gs[i, j] = centred_values(coarse, coarse_entropies, kappa, a, form)
    order = np.argsort(values, axis=None, kind="stable")
    winner = np.unravel_index(order[0], values.shape)
    if thin is not None:
        finalists = [np.unravel_index(flat, values.shape) for flat in order[:FINALISTS]]
        for i, j, k in finalists:
            if not every[i].trivial:
                values[i, j, k], gs[i, j, k] = (
                    array[0] for array in centred_values(every[i], pilot_entropies, kappa, a[k : k + 1], forms[j])
                )
        winner = min(finalists, key=lambda index: values[index])
    i, j, k = winner
    return records.options[i], float(a[k]), forms[j], float(gs[winner])


def _thinned(losses, entropies, index):
    """The losses (and entropies) at the flat positions `index`, as (len(index), 1)."""

    def take(array):
        return np.ravel(array)[index][:, None] if np.ndim(array) else array

    thin = type(losses)(take(losses.values), losses.low, losses.high, take(losses.lows), take(losses.highs))
    return thin, None if entropies is None else take(entropies)
