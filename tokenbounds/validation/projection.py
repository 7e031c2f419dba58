"""Projection of the bounds to the paper's operating points, on synthetic records (docs/validity.md)."""

import math

import numpy as np
from scipy.optimize import brentq

from tokenbounds.bounds import azuma_bpd, azuma_certified_bpd, azuma_rigorous_bpd, betting_bpd
from tokenbounds.randomness import generator
from tokenbounds.validation import processes
from tokenbounds.validation.coverage_common import SEED

VOCAB_SIZE, N_PAPER, M_AMBER = 32_000, 10_000, 1_200_000_000_000
POINTS = {  # complexity per token in nats, and the bound in bits that the paper's Table 8 reports
    "LLaMA2-7B 2 bit": (0.0099, 4.28),
    "LLaMA2-13B 2 bit": (0.018, 4.52),
    "LLaMA1-30B 2 bit": (0.043, 5.37),
    "LLaMA2-70B 2 bit": (0.084, 6.14),
    "LLaMA2-70B 4 bit": (0.165, 7.33),
}
DEFAULT = (0.55, 0.02)  # Gamma shape of the entropies, and fraction of wrong tokens
_ALL = [(shape, miss_rate) for shape in (0.3, 0.55, 1.0) for miss_rate in (0.005, 0.02, 0.05)]
SHAPES = [DEFAULT, *(shape for shape in _ALL if shape != DEFAULT)]


def project(point, shape, miss_rate, repeats):
    """Bound synthetic records whose mean entropy is fitted: the paper's formula gives the reported number.

    Parameters
    ----------
    point : str
        A key of `POINTS`.
    shape, miss_rate : float
        Gamma shape of the entropies, and fraction of wrong tokens.
    repeats : int
        Number of sets of records to average over.

    Returns
    -------
    dict
        A line of projection.csv.
    """
    kappa, reported = POINTS[point]
    message_bits = round(kappa * M_AMBER / math.log(2))

    def records(stream, mean_entropy):
        rng = generator(SEED, "projection", stream)
        return processes.language_tokens(rng, N_PAPER, VOCAB_SIZE, mean_entropy, shape, miss_rate)

    def bound(method, log2_q, **options):
        return method(log2_q, VOCAB_SIZE, message_bits, M_AMBER, **options).value

    def excess(mean_entropy):
        values = [bound(azuma_bpd, records(i, mean_entropy)[0]) for i in range(repeats)]
        return np.mean(values) - reported

    mean_entropy, results = brentq(excess, 0.2, 8, xtol=1e-3), []
    for repeat in range(repeats):
        log2_q, entropies = records(repeat, mean_entropy)
        results.append(
            {
                "azuma": bound(azuma_bpd, log2_q),
                "azuma_certified": bound(azuma_certified_bpd, log2_q),
                "azuma_rigorous": bound(azuma_rigorous_bpd, log2_q),
                "theorem_a": bound(betting_bpd, log2_q),
                "betting": bound(betting_bpd, log2_q, entropies=entropies),
            }
        )
    values = {name: np.mean([result[name] for result in results]) for name in results[0]}
    facts = {"point": point, "kappa": kappa, "paper": reported, "shape": shape, "miss_rate": miss_rate}
    facts |= {"mean_entropy_bits": mean_entropy}
    return facts | values | {"gain": values["betting"] - values["theorem_a"], "repeats": repeats}
