"""Projection of the bounds to the paper's operating points, on synthetic records (docs/validity.md).

Run by itself, ``python -m tokenbounds.validation.projection`` writes kappa.csv and kappa.png to
``docs/validity/``: the bounds against the complexity per token, with every token seen and with 10,000 draws.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import brentq

from tokenbounds.bounds import (
    Bpd,
    Grids,
    azuma_bpd,
    azuma_certified_bpd,
    azuma_rigorous_bpd,
    betting_bpd,
    freedman_bpd,
    search,
)
from tokenbounds.io.files import atomic_path, write_text
from tokenbounds.randomness import generator
from tokenbounds.reports.figures.style import COLOURS, STYLE, plt
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
KAPPAS = np.geomspace(1e-3, 1, 25)  # of the curves
MEAN_ENTROPY = 2.3  # bits, of the curves: about that of the fitted points
ALL_TOKENS = 60_000  # synthetic tokens that stand for all of them
CURVES = ("azuma", "freedman", "betting")


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
                "freedman": freedman_bpd(log2_q, entropies, VOCAB_SIZE, message_bits, M_AMBER).value,
                "theorem_a": bound(betting_bpd, log2_q),
                "betting": bound(betting_bpd, log2_q, entropies=entropies),
            }
        )
    values = {name: np.mean([result[name] for result in results]) for name in results[0]}
    facts = {"point": point, "kappa": kappa, "paper": reported, "shape": shape, "miss_rate": miss_rate}
    facts |= {"mean_entropy_bits": mean_entropy}
    return facts | values | {"gain": values["betting"] - values["theorem_a"], "repeats": repeats}


def with_all_tokens(log2_q, entropies, kappa):
    """Compute the bounds with every token seen, each with its best choices.

    Parameters
    ----------
    log2_q, entropies : numpy.ndarray, (N,)
    kappa : float
        Complexity per token in nats, with everything that is chosen.

    Returns
    -------
    dict of str to float
        By the methods of `CURVES`, in bits.
    """
    grids, losses = Grids(), Bpd(log2_q, VOCAB_SIZE, entropies)
    samples = {alpha: losses.sample(alpha) for alpha in grids.alpha}

    def best(bets, centres, value):
        chosen = np.asarray(bets), grids.alpha, centres, value
        alpha, bet, centre, _ = search.best(losses, slice(None), kappa, *chosen)
        at = samples[alpha], losses.entropies, kappa, np.array([bet]), centre, value
        return min(samples[alpha].high, float(search.centred_values(*at)[0][0]))

    formula = min(each.values.mean() + each.range * math.sqrt(kappa / 2) for each in samples.values())
    centres = search.centres(grids, centred=True)
    return {
        "azuma": float(formula),
        "freedman": best(grids.freedman_fractions, [search.EntropyCentre()], search.linear_value),
        "betting": best(grids.bet_sizes, centres, search.product_value),
    }


def with_draws(log2_q, entropies, kappa):
    """Compute the bounds from n draws, as with `with_all_tokens`."""
    arguments = VOCAB_SIZE, round(kappa * M_AMBER / math.log(2)), M_AMBER
    return {
        "azuma": azuma_bpd(log2_q, *arguments).value,
        "freedman": freedman_bpd(log2_q, entropies, *arguments).value,
        "betting": betting_bpd(log2_q, *arguments, entropies=entropies).value,
    }


def curves(repeats=8, kappas=KAPPAS):
    """Compute the bounds of synthetic tokens against the complexity per token.

    Parameters
    ----------
    repeats : int
        Number of sets of draws to average over.
    kappas : sequence of float

    Returns
    -------
    DataFrame
        Columns kappa, n (inf where every token is seen) and, in bits, the methods of `CURVES`.
    """

    def tokens(stream, n):
        rng = generator(SEED, "projection", stream)
        return processes.language_tokens(rng, n, VOCAB_SIZE, MEAN_ENTROPY, *DEFAULT)

    rows, seen = [], tokens("kappa", ALL_TOKENS)
    drawn = [tokens(f"kappa {repeat}", N_PAPER) for repeat in range(repeats)]
    for kappa in kappas:
        rows.append({"kappa": kappa, "n": math.inf} | with_all_tokens(*seen, kappa))
        values = pd.DataFrame([with_draws(*records, kappa) for records in drawn])
        rows.append({"kappa": kappa, "n": N_PAPER} | values.mean().to_dict())
    return pd.DataFrame(rows)


def draw_curves(table, path):
    """Draw the bounds, and by how much they are above betting, against the complexity per token.

    Solid with every token seen, dashed with n draws.
    """
    labels = {"azuma": "azuma (formula)", "freedman": "freedman", "betting": "betting"}
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name, colour in zip(CURVES, COLOURS, strict=False):
            for n, style in ((math.inf, "-"), (N_PAPER, "--")):
                rows = table[table["n"] == n]
                label = f"{labels[name]}, n = {'∞' if n == math.inf else f'{n:,}'}"
                look = {"color": colour, "linestyle": style, "linewidth": 1.4}
                left.plot(rows["kappa"], rows[name], label=label, **look)
                above = rows[name] - rows["betting"]
                if name != "betting":
                    right.plot(rows["kappa"], above.where(above > 0), **look)
        guess = {"color": "0.5", "linewidth": 1, "linestyle": ":", "label": "random guess"}
        left.axhline(math.log2(VOCAB_SIZE), **guess)
        left.legend(fontsize=8)
        right.set_yscale("log")
        for axes, title in ((left, "bound (bits per token)"), (right, "bits above the betting bound")):
            for kappa, _ in POINTS.values():
                axes.axvline(kappa, ymax=0.03, color="0.3", linewidth=1)
            axes.set(xscale="log", ylabel=title, xlabel="complexity per token κ (nats)")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def main(out, repeats=8):
    """Write kappa.csv and kappa.png to the folder `out`."""
    table = curves(repeats)
    write_text(out / "kappa.csv", table.to_csv(index=False, float_format="%.6g"))
    draw_curves(table, out / "kappa.png")


if __name__ == "__main__":
    docs = Path(__file__).resolve().parents[2] / "docs"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=docs / "validity", help="folder of the files")
    main(parser.parse_args().out)
