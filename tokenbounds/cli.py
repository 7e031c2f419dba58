"""`tokenbounds verify | bound | show | plan`."""

import argparse
import contextlib
import math
import sys
import threading

import pandas as pd

from tokenbounds import __version__, bounds, planning
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config.load import load_config
from tokenbounds.errors import InputError
from tokenbounds.planning import A100_TERAFLOPS, A100_TERAFLOPS_32, COUNTS, UTILIZATION, models_frame


def main(arguments=None):
    """Entry point; returns the exit status: 0 only if everything asked for succeeded."""
    parser = argparse.ArgumentParser(prog="tokenbounds", description="Certified token-level generalization bounds for language models.")
    parser.add_argument("--version", action="version", version=f"tokenbounds {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    verify = commands.add_parser("verify", help="check certificates: hashes, message, records, every bound")
    verify.add_argument("certificate", nargs="+", help="results/RUN/bounds/NAME.json")
    verify.add_argument(
        "--rescore", type=int, default=0, metavar="N", help="also score N drawn items again with the decoded model, in another batch shape"
    )
    verify.set_defaults(run=_verify)

    bound = commands.add_parser("bound", help="the paper's bound from the numbers that a paper reports")
    bound.add_argument("--message-bytes", type=int, required=True, help="size of the compressed model in bytes")
    bound.add_argument("--tokens", type=float, required=True, help="tokens of the corpus, m (1.2e12 is understood)")
    bound.add_argument(
        "--risk", type=float, required=True, help="empirical risk: smoothed bits per token, or the top-k error as a fraction"
    )
    bound.add_argument("--vocab-size", type=int, required=True, help="vocabulary size")
    bound.add_argument("--alpha", type=float, help="prediction smoothing of a bits-per-token risk; left out: the risk is a top-k error")
    bound.add_argument("--draws", type=int, default=10000, help="tokens the risk was estimated from, n (default 10000)")
    bound.add_argument("--delta", type=float, default=0.05, help="failure probability (default 0.05)")
    bound.add_argument(
        "--extra-bits", type=float, default=0.0, help="choices that are not in the message, in bits, e.g. 3 for a grid of 8 alphas"
    )
    bound.set_defaults(run=_bound)

    show = commands.add_parser("show", help="print a certificate (every bound and what it is made of), or the models of a configuration")
    show.add_argument("path", nargs="+", help="results/RUN/bounds/NAME.json, or config.yaml and its overlays")
    show.add_argument("--vocab-size", type=int, help="of the models of a configuration whose tokens are not made yet")
    show.set_defaults(run=_show)

    planned = commands.add_parser(
        "plan",
        help="jobs, GPU hours and bytes of each table and figure of a configuration, before it runs",
        description="Estimate what a run takes, from the jobs that Snakemake lists for it: this needs a "
        "checkout with the Snakefile. Relative paths in the configuration start at the working directory.",
    )
    planned.add_argument("path", nargs="+", help="config.yaml and its overlays")
    planned.add_argument(
        "--vocab-size",
        type=int,
        default=50257,
        help="of corpora whose tokens are not made yet (default GPT-2's 50257)",
    )
    planned.add_argument(
        "--teraflops",
        type=float,
        default=A100_TERAFLOPS,
        help=f"of one GPU in training (default an A100's {A100_TERAFLOPS:g})",
    )
    planned.add_argument(
        "--utilization",
        type=float,
        default=UTILIZATION,
        help=f"part of it that training reaches (default {UTILIZATION})",
    )
    planned.add_argument(
        "--teraflops-32",
        type=float,
        default=A100_TERAFLOPS_32,
        help=f"of one GPU in float32, for scoring (default {A100_TERAFLOPS_32:g})",
    )
    planned.add_argument("--rules", action="store_true", help="by rule, for all tables and figures together")
    planned.set_defaults(run=_plan)

    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _verify(options):
    all_held = True
    for path in options.certificate:
        held = True
        try:
            for check in verify_certificate(path, rescore=options.rescore):
                print(f"{'ok  ' if check.held else 'FAIL'} {check.name}: {check.detail}")
                held &= check.held
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            all_held = False
            continue
        print(f"{path}: {'all checks held' if held else 'NOT verified'}")
        all_held &= held
    return 0 if all_held else 1


def _bound(options):
    if not options.tokens.is_integer():
        raise InputError(f"--tokens {options.tokens}: expected a whole number")
    tokens = int(options.tokens)
    if options.alpha is None:
        interval, unit = 1.0, "top-k error"
    else:
        low, high = bounds.bpd_interval(options.alpha, options.vocab_size)
        interval, unit = high - low, "bits per token"
    largest = 1.0 if options.alpha is None else high
    if options.risk > largest:
        raise InputError(f"--risk {options.risk}: expected at most {largest:g}, the largest {unit} there can be")
    complexity = bounds.complexity_nats(8 * options.message_bytes, options.extra_bits)
    value = bounds.azuma(options.risk, interval, complexity, tokens, options.draws, options.delta)
    deltas = bounds.split_delta_paper(options.delta, tokens, options.draws)
    complexity_term, subsample_term = bounds.azuma_terms(interval, complexity, tokens, options.draws, *deltas)
    print(f"bound         {value:.4f} {unit}, with probability {1 - options.delta:g} (the paper's formula)")
    for name, term in (("risk", options.risk), ("+ complexity", complexity_term), ("+ draws", subsample_term)):
        print(f"{name:13} {term:.4f}")
    if options.alpha is not None:
        print(f"{'random guess':13} {bounds.random_guess_bpd(options.vocab_size):.4f}")
    return 0


def _show(options):
    configs = [path for path in options.path if path.endswith((".yaml", ".yml"))]
    if configs:
        if len(configs) < len(options.path):
            raise InputError(f"{' '.join(options.path)}: certificates and configurations; expected only one kind")
        frame = models_frame(load_config(*configs), options.vocab_size)
        shown = {name: frame[name].map(lambda count: "-" if pd.isna(count) else f"{count:,}") for name in COUNTS}
        print(frame.assign(**shown).to_string(index=False))
        if (frame["dense"].isna() & ~frame["structure"].str.startswith(("as published", "markov"))).any():
            print("-: tokens not made yet, so the vocabulary's size is not known; expected --vocab-size (GPT-2: 50257)", file=sys.stderr)
        return 0
    for path in options.path:
        try:
            print(describe_certificate(read_certificate(path)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a whole certificate ({type(error).__name__}: {error})") from None
    return 0


@contextlib.contextmanager
def _note_when_slow(note, seconds=2.0):
    """Say on a terminal what goes on, once it has lasted so long."""
    timer = threading.Timer(seconds, print, [f"{note} ..."], {"file": sys.stderr})
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _plan(options):
    if not 0 < options.utilization <= 1:
        raise InputError(f"--utilization {options.utilization:g}: expected more than 0 and at most 1")
    for name in ("teraflops", "teraflops_32"):
        if not 0 < (value := getattr(options, name)) < math.inf:
            raise InputError(f"--{name.replace('_', '-')} {value:g}: expected more than 0")
    config = load_config(*options.path)
    costs = planning.Costs(
        config, options.vocab_size, options.teraflops, options.teraflops_32, options.utilization
    )
    with _note_when_slow("Snakemake lists the jobs; for thousands of them it takes about 15 s"):
        graph = planning.list_jobs(*options.path)
        frame = planning.by_rule(graph, costs) if options.rules else planning.by_output(config, graph, costs)
    print(frame.to_string(index=False, na_rep="-", float_format="{:,.1f}".format))
    if frame.isna().any(axis=None):
        print("-: sizes that the key `expected` of corpora and published models would give", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
