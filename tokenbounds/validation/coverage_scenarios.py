"""Scenarios of the coverage experiment: simulated corpora, and which of the bounds on them must hold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tokenbounds.validation import coverage_attempts, coverage_draws, coverage_horizons, processes
from tokenbounds.validation.coverage_common import LARGE_M, RMS
from tokenbounds.validation.coverage_corpus import every_token, stopped_bets, stopped_multipliers
from tokenbounds.validation.coverage_draws import certificates


@dataclass(frozen=True)
class Scenario:
    """A process and the bounds judged on it.

    All must hold, but for those in `breaks` (must fail) and in `reported` (no claim). Several columns of
    failures are choices, the worst of which is judged; where `along` names what grows from one to the next
    and `values` its values, the last column is judged and all are shown.
    """

    section: str
    process: str
    run: Callable  # (rng, trials) -> {label: failures}
    breaks: tuple = ()
    reported: tuple = ()
    along: str = ""
    values: tuple = ()


IID = {
    "IID Bernoulli": processes.bernoulli,
    "IID skewed Beta": processes.skewed_beta,
    "IID, rare maximal losses": partial(processes.rare_maximal, rate=0.02),
}
DEPENDENT = {
    "adaptive chain": processes.adaptive_chain,
    "varying α": processes.varying_alpha,
    "stopped α": processes.stopped_alpha,
}


def corpus_scenarios():
    """List the scenarios in which every token is seen."""
    scenario, chain = partial(Scenario, "Every token seen"), processes.adaptive_chain
    varying, stopped = processes.varying_alpha, processes.stopped_alpha
    return [
        *(scenario(f"{name}, m = 1000", every_token(process, 1000)) for name, process in IID.items()),
        scenario("adaptive chain, m = 1000", every_token(chain, 1000)),
        scenario("varying α, m = 1000", every_token(varying, 1000), reported=(RMS,)),
        scenario("stopped α, m = 1000", every_token(stopped, 1000), breaks=(RMS,)),
        scenario("stopped α, m = 10000", every_token(stopped, 10_000), breaks=(RMS,)),
    ]


def certificate_scenarios():
    """List the scenarios of whole certificates."""
    scenario, every = partial(Scenario, "Whole certificates"), IID | DEPENDENT
    unclaimed = "azuma_certified, best α of the same draws"
    return [
        *(scenario(f"{name}, n = 200 ≪ m", certificates(IID[name], 200, 200, LARGE_M)) for name in IID),
        *(
            scenario(f"{name}, n = 100 < m = 2000", certificates(every[name], 2000, 100))
            for name in DEPENDENT
        ),
        *(scenario(f"{name}, n = m = 200", certificates(every[name], 200, 200)) for name in every),
        scenario("adaptive chain, 50 of 100 windows of 10", coverage_draws.windows),
        scenario("α chosen, n = 200 ≪ m", coverage_draws.alpha_chosen, reported=(unclaimed,)),
    ]


def rule_scenarios():
    """List the scenarios that leave out a complexity term or a rule."""
    scenario = partial(Scenario, "Payments and rules left out")
    bets = "Theorem A, best of 16 a, unpaid", "Theorem A, without δ1"
    messages = "betting, 64 bits unpaid", "betting, m overstated tenfold"
    sorted_draws = "betting, draws sorted before the pilot is taken"
    dropped_draws = "betting, draws with a loss above 1/2 dropped"
    draws = "betting, without δ2", sorted_draws, dropped_draws
    limit = "draws' limit, best of 32 b on the same draws"
    model, cut = "betting_topk, best model on the same draws", "betting, each document cut by itself"
    unpaid = "azuma_rigorous, best of 9 λ, unpaid"
    return [
        scenario("α decided by the context, n = 1000 ≪ m", coverage_draws.rms_over_draws, (RMS,)),
        scenario("bets stopped, m = 1000", stopped_bets, bets),
        scenario("multipliers stopped, m = 1000", stopped_multipliers, (unpaid,)),
        scenario("best of 2^64 coin guessers, n = 200, m = 400", coverage_draws.best_of_messages, messages),
        scenario("64 equal models, n = 200 ≪ m", coverage_draws.best_of_models, (model,)),
        scenario("IID skewed Beta, n = 200 ≪ m", coverage_draws.draws_misused, draws, (limit,)),
        scenario("A…A EOT, windows of 2, n = 500", coverage_draws.document_cuts, (cut,)),
    ]


def attempt_scenarios():
    """List the scenarios in which one of many certificates is reported, and that of an m that is chosen."""
    scenario = partial(Scenario, "One of many certificates", along="k", values=coverage_attempts.SHOWN)
    size, both = f"n = {coverage_attempts.DRAWS} ≪ m", coverage_attempts.KINDS
    draws = {"shared draws": True, "draws of the message": False}
    chosen = Scenario(
        "m chosen by the process",
        "fair coins, every token seen",
        coverage_horizons.chosen_m,
        breaks=(coverage_horizons.TUNED,),
        along="m ≤",
        values=coverage_horizons.HORIZONS,
    )
    last, best, satisfied = coverage_attempts.last, coverage_attempts.best, coverage_attempts.satisfied
    unpaid = (coverage_attempts.UNPAID,)
    return [
        *(scenario(f"last of k, {d}, {size}", last(x), both if x else ()) for d, x in draws.items()),
        *(scenario(f"best of k, {d}, {size}", best(x), both) for d, x in draws.items()),
        *(scenario(f"stopped within k, {d}, {size}", satisfied(x), unpaid) for d, x in draws.items()),
        chosen,
    ]


SCENARIOS = [*corpus_scenarios(), *certificate_scenarios(), *rule_scenarios(), *attempt_scenarios()]
