"""`tokenbounds verify | commit | bound | show | plan`."""

import argparse
import contextlib
import math
import sys
import threading

import pandas as pd

from tokenbounds import __version__, bounds, planning
from tokenbounds.config.load import load_config
from tokenbounds.errors import InputError


def main(arguments=None):
    """Run a command; return the exit status: 0 only if everything asked for succeeded."""
    options = command_line().parse_args(arguments)
    try:
        return options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def command_line():
    """Build the parser of the command line."""
    description = "Certified token-level generalization bounds for language models."
    parser = argparse.ArgumentParser(prog="tokenbounds", description=description)
    parser.add_argument("--version", action="version", version=f"tokenbounds {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_verify, _add_commit, _add_bound, _add_show, _add_plan):
        add(commands)
    return parser


def _add_verify(commands):
    verify = commands.add_parser("verify", help="check certificates: hashes, message, records, every bound")
    verify.add_argument("certificate", nargs="+", help="results/RUN/bounds/NAME.json")
    rescore = "also score N draws (or all) again with the decoded model, and say what that excludes"
    verify.add_argument("--rescore", type=_count, default=0, metavar="N", help=rescore)
    retokenize = "also read N documents (or all) from their source again and compare their tokens"
    verify.add_argument("--retokenize", type=_count, default=0, metavar="N", help=retokenize)
    verify.set_defaults(run=_verify)


def _add_commit(commands):
    commit = commands.add_parser(
        "commit",
        help="print the hash to publish before the beacon of the draws is known",
        description="Print the hash of message, index and configuration of a result whose draws will depend "
        "on a public random value (sampling.beacon) that nobody knows yet; or, of a certificate, the hash "
        "that must have been published.",
    )
    text = "MODEL.CODEC.CORPUS.SAMPLING of a run whose message and index are made; or a certificate"
    commit.add_argument("result", help=text)
    commit.add_argument("--config", nargs="+", default=["config.yaml"], help="config.yaml and its overlays")
    source = "which value it will be, e.g. 'drand quicknet, round 12345678'"
    commit.add_argument("--beacon-from", required=True, metavar="TEXT", help=source)
    commit.set_defaults(run=_commit)


def _count(text):
    """Read a number of items, or "all"."""
    if text == "all":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number, or all")
    return int(text)


def _add_bound(commands):
    bound = commands.add_parser(
        "bound", help="compute the paper's bound from the numbers that a paper reports"
    )
    required = {
        "message-bytes": (int, "size of the compressed model in bytes"),
        "tokens": (float, "tokens of the corpus, m (1.2e12 is understood)"),
        "risk": (float, "empirical risk: smoothed bits per token, or the top-k error as a fraction"),
        "vocab-size": (int, "vocabulary size"),
    }
    for name, (kind, text) in required.items():
        bound.add_argument(f"--{name}", type=kind, required=True, help=text)
    alpha = "prediction smoothing of a bits-per-token risk; left out: the risk is a top-k error"
    bound.add_argument("--alpha", type=float, help=alpha)
    draws = "tokens the risk was estimated from, n (default 10000)"
    bound.add_argument("--draws", type=int, default=10000, help=draws)
    bound.add_argument("--delta", type=float, default=0.05, help="failure probability (default 0.05)")
    extra = "choices that are not in the message, in bits, e.g. 3 for a grid of 8 alphas"
    bound.add_argument("--extra-bits", type=float, default=0.0, help=extra)
    bound.set_defaults(run=_bound)


def _add_show(commands):
    text = "print a certificate (every bound and its terms), or the models of a configuration"
    show = commands.add_parser("show", help=text)
    show.add_argument("path", nargs="+", help="results/RUN/bounds/NAME.json, or config.yaml and its overlays")
    size = "of the models of a configuration whose tokens are not made yet"
    show.add_argument("--vocab-size", type=int, help=size)
    show.set_defaults(run=_show)


def _add_plan(commands):
    plan = commands.add_parser(
        "plan",
        help="estimate jobs, GPU hours and bytes of each table and figure of a configuration",
        description="Estimate what a run takes, from the jobs that Snakemake lists for it: this needs a "
        "checkout with the Snakefile. Relative paths in the configuration start at the working directory.",
    )
    plan.add_argument("path", nargs="+", help="config.yaml and its overlays")
    size = "of corpora whose tokens are not made yet (default GPT-2's 50257)"
    plan.add_argument("--vocab-size", type=int, default=50257, help=size)
    defaults = {
        "teraflops": (planning.A100_TERAFLOPS, "of one GPU in training (default an A100's {:g})"),
        "utilization": (planning.UTILIZATION, "part of it that training reaches (default {})"),
        "teraflops-32": (planning.A100_TERAFLOPS_32, "of one GPU in float32, for scoring (default {:g})"),
    }
    for name, (default, text) in defaults.items():
        plan.add_argument(f"--{name}", type=float, default=default, help=text.format(default))
    plan.add_argument("--rules", action="store_true", help="by rule, for all tables and figures together")
    plan.set_defaults(run=_plan)


def _verify(options):
    from tokenbounds.certificates.files import read_certificate
    from tokenbounds.certificates.verify import taken_as_stated, verify_certificate  # imports torch

    all_held = True
    counts = {"rescored": options.rescore, "retokenized": options.retokenize}
    for path in options.certificate:
        held = True
        try:
            for check in verify_certificate(path, **counts):
                print(f"{'ok  ' if check.held else 'FAIL'} {check.name}: {check.detail}")
                held &= check.held
            if held:
                print("taken as stated:")
                print("".join(f"  {line}\n" for line in taken_as_stated(read_certificate(path))), end="")
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            all_held = False
            continue
        print(f"{path}: {'all checks held' if held else 'NOT verified'}")
        all_held &= held
    return 0 if all_held else 1


def _commit(options):
    from tokenbounds.certificates.commit import commitment, commitment_of
    from tokenbounds.certificates.files import read_certificate
    from tokenbounds.corpus.store import CorpusIndex
    from tokenbounds.io.files import sha256_file

    if options.result.endswith(".json"):
        print(commitment_of(read_certificate(options.result), options.beacon_from))
        return 0
    config, name = load_config(*options.config), options.result
    if f"{config.results}/bounds/{name}.json" not in config.shown_certificates():
        raise InputError(f"{name}: no result of this configuration; expected MODEL.CODEC.CORPUS.SAMPLING")
    model, codec, corpus, sampling = name.split(".")
    print(
        commitment(
            sha256_file(f"{config.results}/messages/{model}.{codec}.bin"),
            CorpusIndex(f"{config.results}/tokens/{corpus}/train").identity,
            delta=config.delta,
            settings=config.bounds_settings(name),
            choices_bits=config.choices_bits(),
            scheme=config.scheme(sampling),
            beacon_from=options.beacon_from,
        )
    )
    return 0


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
        raise InputError(
            f"--risk {options.risk}: expected at most {largest:g}, the largest {unit} there can be"
        )
    complexity = bounds.complexity_nats(8 * options.message_bytes, options.extra_bits)
    value = bounds.azuma(options.risk, interval, complexity, tokens, options.draws, options.delta)
    deltas = bounds.split_delta_paper(options.delta, tokens, options.draws)
    terms = bounds.azuma_terms(interval, complexity, tokens, options.draws, *deltas)
    print(f"bound         {value:.4f} {unit}, with probability {1 - options.delta:g} (the paper's formula)")
    for name, term in zip(("risk", "+ complexity", "+ draws"), (options.risk, *terms), strict=True):
        print(f"{name:13} {term:.4f}")
    if options.alpha is not None:
        print(f"{'random guess':13} {bounds.random_guess_bpd(options.vocab_size):.4f}")
    return 0


def _show(options):
    configs = [path for path in options.path if path.endswith((".yaml", ".yml"))]
    if len(configs) == len(options.path):
        return _show_models(load_config(*configs), options.vocab_size)
    if configs:
        raise InputError(f"{' '.join(options.path)}: certificates and configurations; expected only one kind")
    from tokenbounds.certificates.describe import describe_certificate
    from tokenbounds.certificates.files import read_certificate

    for path in options.path:
        try:
            print(describe_certificate(read_certificate(path)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a whole certificate ({type(error).__name__}: {error})") from None
    return 0


def _show_models(config, vocab_size):
    frame = planning.models_frame(config, vocab_size)
    trained = frame["model"].map(lambda name: config.models[name].trained)
    unknown = trained & frame["dense"].isna()
    for name in planning.COUNTS:
        frame[name] = frame[name].map(lambda count: "-" if pd.isna(count) else f"{count:,}")
    print(frame.to_string(index=False))
    if unknown.any():
        expected = "expected --vocab-size (GPT-2: 50257)"
        print(f"-: tokens not made yet, so the vocabulary's size is not known; {expected}", file=sys.stderr)
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
