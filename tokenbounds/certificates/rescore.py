"""Scoring again what a certificate rests on, and what follows where only a sample was scored."""

import math

import numpy as np

from tokenbounds.bounds.methods import HEADLINE
from tokenbounds.bounds.subsampling import pilot_size
from tokenbounds.certificates.checks import CONFIDENCE, Check, most_faults
from tokenbounds.certificates.evaluate import metrics
from tokenbounds.certificates.make import (
    DEVICE,
    SMALLEST_ENTROPY_EPSILON_BITS,
    SMALLEST_EPSILON_NATS,
    records_of,
    smoothing,
)
from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.sampling import context_of
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.scoring.draws import draw_items, message_draws
from tokenbounds.scoring.records import RANK_TOLERANCE_NATS, check_draws, read_records
from tokenbounds.scoring.reproducibility import reproducibility
from tokenbounds.scoring.score import LN2, largest_difference, rank_interval, score_items

# Another processor of the same kind, or another library, rounds differently, but not to one side.
TOLERANCE_NATS, MEAN_NATS = 1e-4, 1e-5
# On another kind of device the program is a slightly different function, which is not a forgery.
OTHER_DEVICE_NATS, OTHER_DEVICE_MEAN_NATS, OTHER_DEVICE_ERRORS = 0.05, 1e-3, 1e-3
IMPOSSIBLE_LOG2 = -1e6  # log2 of a probability that is 0 in float64


def rescore(run, certificate, count):
    """Score drawn items again with the decoded model and compare them with the records.

    Parameters
    ----------
    run : path
    certificate : dict
    count : int or "all"
        Number of draws; which ones is decided by random numbers that nobody else knows.

    Yields
    ------
    Check
        Of the scores; and one that says what they exclude.
    """
    device, foreign = _device(certificate["scored_on"]["device"])
    context = context_of(certificate["sampling"])
    message_path = run / certificate["hypothesis"]["message"]["path"]
    message, model = read_model(message_path, device)
    arithmetic = message.config["contexts"]["arithmetic"]
    store = TokenStore((run / certificate["corpus"]["index"]["path"]).parent)
    paths = [run / item["path"] for item in certificate["records"]]
    check_draws(paths, certificate["n"])
    draws, _ = message_draws(
        message_path, store, context, certificate["n"], certificate["sampling"]["beacon"]
    )
    items = list(draw_items(message, store, draws, context, name=str(message_path)))
    secret = np.random.default_rng()
    count = len(draws) if count == "all" else min(count, len(draws))
    drawn = secret.choice(len(draws), size=count, replace=False)
    chosen = np.flatnonzero(np.isin([item.draw for item in items], drawn))
    records = read_records(paths, head=message.head is not None, ragged=context["mode"] == "document")
    starts = np.cumsum([0, *(item.targets.size for item in items)])
    picked, name = [items[i] for i in chosen], certificate["name"]
    scored = score_items(model, picked, arithmetic=arithmetic, name=name, progress=True)
    changes = reproducibility(
        model,
        picked,
        scored,
        arithmetic=arithmetic,
        seed=int(secret.integers(2**31)),
        stream="verify",
        name=name,
        sample=max(64, len(picked) // 10),
    )
    yield _reproducible(certificate, changes, foreign)
    allowed = OTHER_DEVICE_NATS if foreign else max(TOLERANCE_NATS, 2 * certificate["epsilon_nats"])
    differences, wrong = [], []
    for i, columns in zip(chosen, scored, strict=True):
        recorded = {key: column[starts[i] : starts[i + 1]] for key, column in records.items()}
        names = ["log2_q", "rank", "entropy_bits", "alpha"][: len(columns)]
        differences.append(largest_difference([recorded[key] for key in names], columns))
        wrong += _wrong_columns(model, items[i], recorded, columns, allowed, arithmetic)
    places = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
    wrong += _one_sided(records, places, scored, certificate, foreign)
    difference = float(np.max(differences))  # a NaN stays one
    held = difference <= allowed and not wrong
    others = f"not as recorded: {wrong[0]} ({len(wrong)} differences)" if wrong else "all columns as recorded"
    where = f"{device}, recorded on {certificate['scored_on']['device']}" if foreign else str(device)
    found = f"log-probabilities differ by {difference:.2g} nats at most"
    detail = f"{count} of {len(draws)} draws scored again ({where}): {found}, {allowed:.2g} allowed; {others}"
    yield Check("rescore", held, detail)
    if held:
        yield from _strength(run, certificate, message, context, draws, store, count, allowed)


def _reproducible(certificate, changes, foreign):
    """Compare how reproducible scores are here with what the certificate states."""
    stated = certificate["epsilon_nats"], certificate["entropy_epsilon_bits"]
    found = changes.epsilon_nats, changes.entropy_epsilon_bits
    smallest = SMALLEST_EPSILON_NATS, SMALLEST_ENTROPY_EPSILON_BITS
    held = foreign or all(a <= max(b, c) for a, b, c in zip(found, stated, smallest, strict=True))
    seen = f"{changes.items} items scored beside others and with other later tokens"
    shown = "the same bits" if changes.bitwise else f"up to {found[0]:.2g} nats and {found[1]:.2g} bits apart"
    return Check(
        "reproducible", held, f"{seen}: {shown}; {stated[0]:g} nats and {stated[1]:g} bits are stated"
    )


def _one_sided(records, places, scored, certificate, foreign):
    """Name what is better as recorded than as scored again, on average over the draws that estimate the mean:
    rounding is not one-sided."""
    after = records["draw"][places] >= pilot_size(certificate["n"])
    if not after.any():
        return []
    again = [np.concatenate(column)[after] for column in list(zip(*scored, strict=True))[:3]]
    recorded = {name: records[name][places][after] for name in ("log2_q", "rank")}
    shift = float(LN2 * np.mean(recorded["log2_q"] - again[0]))
    most = OTHER_DEVICE_MEAN_NATS if foreign else MEAN_NATS
    wrong = [] if shift <= most else [f"log2_q is {shift:.2g} nats better on average, {most:g} allowed"]
    if foreign:  # a rank that may be off by tokens nearly as probable
        for k in certificate["settings"]["top_k"]:
            errors = float(np.mean(again[1] >= k)), float(np.mean(recorded["rank"] >= k))
            if errors[1] < errors[0] - OTHER_DEVICE_ERRORS:
                wrong.append(
                    f"the top-{k} error is {errors[1]:.4f} as recorded, {errors[0]:.4f} scored again"
                )
    return wrong


def _device(stated):
    """Choose the device that records were scored on, or the CPU where it is not here; and whether it is of
    another kind."""
    names = stated.split(", ") if isinstance(stated, str) else []
    if not names or not all(map(DEVICE.fullmatch, names)):
        raise InputError(f"scored_on.device is {stated!r}; expected cpu, cuda:0, ... (parts may have others)")
    try:
        return choose_device(names[-1]), len({name.partition(":")[0] for name in names}) > 1
    except InputError:
        return choose_device("cpu"), True


def _wrong_columns(model, item, recorded, scored, allowed_nats, arithmetic):
    """Name the recorded columns of an item that its scoring again does not confirm."""
    tolerance_bits = allowed_nats / LN2
    confirmed = {
        # also by itself: the bounds with a constant smoothing do not know the head's
        "log2_q": np.abs(recorded["log2_q"] - scored[0]) <= tolerance_bits,
        "entropy_bits": np.abs(recorded["entropy_bits"] - scored[2]) <= tolerance_bits,
        "rank": recorded["rank"] == scored[1],
        "context_length": recorded["context_length"] == item.contexts,
        "document": recorded["document"] == item.document,
        "draw": recorded["draw"] == item.draw,
    }
    if not confirmed["rank"].all():  # tokens nearly as probable may have changed places
        near = max(RANK_TOLERANCE_NATS, allowed_nats if allowed_nats >= OTHER_DEVICE_NATS else 0)
        least, greatest = rank_interval(model, item, near, arithmetic=arithmetic)
        confirmed["rank"] = (least <= recorded["rank"]) & (recorded["rank"] <= greatest)
    return [f"{key} of draw {item.draw}" for key, held in confirmed.items() if not held.all()]


def _strength(run, certificate, message, context, draws, store, count, allowed):
    """Say what clean items exclude, and the bounds if that many records were forged nevertheless."""
    total = len(draws)
    forged = most_faults(total, count)
    if not forged:
        detail = f"all {total} draws were scored again: no record is off by more than {allowed:.2g} nats"
        yield Check("strength", True, detail)
        return
    paths = [run / item["path"] for item in certificate["records"]]
    records = records_of(paths, draws, message, context, store)
    options = arguments_of(certificate) | smoothing(message, context)
    bits, vocab_size = certificate["hypothesis"]["message_bits"], certificate["vocab_size"]
    worst = [
        metrics(_forged(records, forged, entropy, message, vocab_size), bits, **options)
        for entropy in (0.0, math.log2(vocab_size))
    ]
    widened = []
    for metric in list(certificate["metrics"])[:2]:
        stated = certificate["metrics"][metric]["bounds"][HEADLINE.name]["value"]
        value = max(found[metric]["bounds"][HEADLINE.name]["value"] for found in worst)
        widened.append(f"{metric} would be {value:.4f} instead of {stated:.4f}")
    share = f"{100 * forged / total:.2g}% of the draws ({forged} of {total}) can be forged, {CONFIDENCE:.0%}"
    instead = f"{', '.join(widened)} by {HEADLINE.label}"
    yield Check("strength", True, f"{count} clean draws: at most {share}; were they the worst, {instead}")


def arguments_of(certificate):
    """Return the arguments of `metrics` that a certificate states."""
    names = ("delta", "m", "n", "vocab_size", "epsilon_nats", "entropy_epsilon_bits", "settings")
    paid = certificate["choices_bits"] | certificate["tokenizer_bits"]
    return {name: certificate[name] for name in names} | {"choices_bits": paid}


def _forged(records, count, entropy_bits, message, vocab_size):
    """Set the records with the least losses to the largest, so many of the draws after the pilot: those that
    estimate the mean."""
    records = {name: column.copy() for name, column in records.items()}
    documents = "tokens_per_draw" in records
    if documents:
        owner = np.repeat(np.arange(len(records["tokens_per_draw"])), records["tokens_per_draw"])
        totals = np.bincount(owner, records["log2_q"])
        risk = -totals / records["tokens_per_draw"]
    else:
        risk = -records["log2_q"].reshape(len(records["log2_q"]), -1).mean(axis=1)
    first = pilot_size(len(risk))
    chosen = first + np.argsort(risk[first:], kind="stable")[:count]
    place = np.isin(owner, chosen) if documents else chosen
    records["log2_q"][place] = IMPOSSIBLE_LOG2
    records["rank"][place] = vocab_size - 1
    records["entropy_bits"][place] = entropy_bits
    if "alpha" in records:
        records["alpha"][place] = message.head.config["alpha_head"]["low"]
    return records
