"""Constants of the coverage experiment, and the count of bounds that fail."""

import math

import numpy as np

from tokenbounds.bounds import Bound, Grids, logit_spaced
from tokenbounds.bounds.azuma_bounds import AzumaCertified, AzumaFormula, AzumaRigorous
from tokenbounds.bounds.betting_bounds import Betting
from tokenbounds.bounds.freedman_bounds import Freedman

SEED, DELTA = 137, 0.05
DELTA_NATS = -math.log(DELTA)  # all of delta on the corpus event, and no message
ROUNDING = 1e-9  # a mean this far above a bound is not yet a violation
MESSAGE_BITS = 2  # the least that a certificate accepts: the draws then decide
LARGE_M = 10**9  # n IID draws of so large an IID corpus are n draws of its law
# Small grids keep a bound below a millisecond; the complexity follows their sizes.
GRIDS = Grids(
    alpha=(1e-3, 0.01, 0.1, 0.5),
    bet_sizes=logit_spaced(0.01, 0.99, 8),
    centre_linear=(0.0, 0.5),
    centre_quadratic=(0.0,),
    centre_widths=(0.6, 1.0),
    sampling_bet_sizes=logit_spaced(0.02, 0.95, 8),
    freedman_fractions=logit_spaced(0.01, 0.99, 8),
)
FORMULA, CERTIFIED, RIGOROUS = AzumaFormula(), AzumaCertified(), AzumaRigorous()
BETTING, FREEDMAN = Betting(), Freedman()
RMS = "azuma, rms interval"


def failures(means, bounds):
    """Compare the true means with bounds.

    Parameters
    ----------
    means : numpy.ndarray, (trials,)
    bounds : dict of str to callable
        By label, a function of the number of a trial: a `Bound`, a number, or an array of several choices.

    Returns
    -------
    dict of str to numpy.ndarray of bool, (trials,) or (trials, choices)
        Whether the mean is above the bound.
    """

    def fails(i, bound):
        value = bound.value if isinstance(bound, Bound) else np.asarray(bound)
        return means[i] > value + ROUNDING

    trials = range(len(means))
    return {label: np.array([fails(i, bound(i)) for i in trials]) for label, bound in bounds.items()}
