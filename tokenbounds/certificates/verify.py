"""Checks that a stranger can run on a certificate: everything that follows from its files, computed again."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from tokenbounds import bounds
from tokenbounds.bounds.methods import ADDED, METHODS
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.make import make_certificate, population
from tokenbounds.codecs.archive import compressed_again
from tokenbounds.codecs.decode import read_message, read_model
from tokenbounds.codecs.header import complexity_bits, published_folder
from tokenbounds.config.schema import Sampling
from tokenbounds.corpus.sampling import draw, read_positions
from tokenbounds.corpus.store import CorpusIndex, TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file
from tokenbounds.scoring.parts import draw_items
from tokenbounds.scoring.records import read_records
from tokenbounds.scoring.score import LN2, largest_difference, rank_interval, score_items

_ENTROPY_TOLERANCE_BITS = 1e-4
_OTHER_DEVICE_BITS = 1e-3  # another device computes a slightly different function
TOLERANCE = 1e-12  # relative, of a bound recomputed from its records


@dataclasses.dataclass(frozen=True)
class Check:
    """Outcome of one check."""

    name: str
    held: bool
    detail: str


def verify_certificate(path, rescore=0):
    """Check a certificate against the files it names.

    Everything in it that follows from those files is computed again. What does not follow from them is taken
    as stated: delta, the grids of the `bounds` section (their sizes are terms of the complexity, but that
    they were fixed before the draws were seen cannot be known), and which models and corpora were looked at
    before these were reported.

    Parameters
    ----------
    path : path
        ``results/{run}/bounds/{name}.json``; the files it names are looked for in ``results/{run}``.
    rescore : int
        Number of drawn items to score again with the decoded model, one at a time.

    Yields
    ------
    Check
        One per file and per property. A check that cannot be made because a file is missing or torn does not
        hold.
    """
    path = Path(path).resolve()
    certificate = read_certificate(path)
    run = path.parent.parent
    yield from _guarded("files", lambda: _check_files(run, certificate))
    yield from _guarded("corpus", lambda: _check_store(run, certificate))
    yield from _guarded("message", lambda: _check_message(run, certificate))
    yield from _guarded("draws", lambda: _check_draws(run, certificate))
    yield from _guarded("bounds", lambda: _check_bounds(run, certificate, path.stem))
    if rescore:
        yield from _guarded("rescore", lambda: _check_rescore(run, certificate, rescore))


def _check_files(run, certificate):
    for name, item in _named_files(certificate):
        digest = sha256_file(run / item["path"]) if (run / item["path"]).exists() else "missing"
        held = digest == item["sha256"]
        yield Check(
            name,
            held,
            f"{item['path']} sha256 {digest[:16]}" + ("" if held else f", expected {item['sha256'][:16]}"),
        )


def _named_files(certificate):
    yield "message file", certificate["hypothesis"]["message"]
    yield "index file", certificate["corpus"]["index"]
    yield "draws file", certificate["sampling"]["draws"]
    for number, item in enumerate(certificate["records"]):
        yield f"records file {number}", item


def _guarded(name, check):
    try:
        yield from check()
    except InputError as error:
        yield Check(name, False, str(error))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        # An edited certificate or sidecar can hold anything anywhere; whatever follows from that, the check
        # was not passed.
        yield Check(
            name, False, f"cannot be checked ({type(error).__name__}: {' '.join(str(error).split())})"
        )


def _check_store(run, certificate):
    corpus = certificate["corpus"]
    store = TokenStore((run / corpus["index"]["path"]).parent)
    store.check_shards()
    expected = population(store.m, len(store.ends), certificate["sampling"])
    held = (
        certificate["m"] == expected
        and corpus["tokens"] == store.m
        and certificate["vocab_size"] == store.vocab_size
    )
    detail = f"all token shards are those of the index, EOTs where it says that documents end; m = {expected}"
    yield Check("corpus", held, detail + f", certificate says {certificate['m']}")


def _check_message(run, certificate):
    hypothesis = certificate["hypothesis"]
    path = run / hypothesis["message"]["path"]
    message = read_message(path)
    bits = complexity_bits(path, message)
    context = {key: certificate["sampling"].get(key) for key in ("mode", "context_length", "window")}
    named = message.config["contexts"].get(certificate["sampling"]["name"], {})
    same = message.config["hypothesis"] == hypothesis["config"] and context == {
        key: named.get(key) for key in context
    }
    head = message.head.config["alpha_head"] if message.head else None
    held = same and bits == hypothesis["message_bits"] and hypothesis.get("alpha_head") == head
    family, schemes = message.config["hypothesis"]["family"], len(message.config["contexts"])
    yield Check(
        "message", held, f"decodes to {len(message.tensors)} tensors of a {family} model; C(h) = {bits} bits"
    )
    if "files" in message.config:
        size, stated = compressed_again(message, published_folder(path)), message.config["compressed_bytes"]
        detail = f"the published files are the message's and compress to {size} bytes; {stated} are stated"
        yield Check("size", size <= stated, detail)
    # The message holds the contexts of all sampling schemes: which of them a certificate is about is a
    # choice, and a term of the complexity.
    needed, stated = math.log2(schemes), certificate["choices_bits"].get("sampling scheme", 0)
    detail = f"{stated:g} bits are stated for the choice of one of {schemes} schemes, {needed:g} are needed"
    yield Check("choices", stated >= needed, detail)


def _check_draws(run, certificate):
    sampling, corpus = certificate["sampling"], certificate["corpus"]
    index = CorpusIndex((run / corpus["index"]["path"]).parent)
    draws = read_positions(run / sampling["draws"]["path"], index)
    scheme = Sampling.model_validate(
        {
            "n": certificate["n"],
            **{key: sampling[key] for key in ("mode", "context_length", "window") if key in sampling},
        }
    )
    held = draws.equals(draw(index, scheme, sampling["seed"], corpus["name"]))
    yield Check(
        "draws",
        held,
        f"{len(draws)} draws {'are' if held else 'are not'} the stream of seed {sampling['seed']}, in order",
    )


def _check_bounds(run, certificate, name):
    stated = {key: certificate[key] for key in ("delta", "settings", "choices_bits")}
    again = make_certificate(run, name, **stated, parts=len(certificate["records"]))
    # It may have been made with other versions than those that check it.
    here = {key: certificate.get(key) for key in ("versions", "commit")}
    again = _with_stated_methods(again, certificate)
    different = list(_differences(certificate, again | here))
    count = sum(len(metric["bounds"]) for metric in again["metrics"].values())
    detail = (
        f"{different[0]} ({len(different)} differences)"
        if different
        else f"{count} bounds recomputed from the records are the same to {TOLERANCE:g}"
    )
    yield Check("bounds", not different, detail)


def _with_stated_methods(again, certificate):
    """Leave out bounds of other packages' methods that the certificate does not state.

    A method that it states and that is not installed here raises an `InputError`.
    """
    stated = {method for entry in certificate["metrics"].values() for method in entry["bounds"]}
    if unknown := stated - METHODS.keys():
        raise InputError(
            f"method '{min(unknown)}' is not installed here; expected one of {', '.join(METHODS)}"
        )
    dropped = ADDED - stated
    metrics = {
        name: entry | {"bounds": {key: value for key, value in entry["bounds"].items() if key not in dropped}}
        for name, entry in again["metrics"].items()
    }
    return again | {"metrics": metrics}


def _differences(stated, expected, place=""):
    """Say where two JSON values differ, by more than rounding."""
    if isinstance(stated, dict) and isinstance(expected, dict):
        for key in sorted(stated.keys() | expected.keys()):
            inner = f"{place}.{key}" if place else key
            if key not in stated or key not in expected:
                yield f"{inner} is {'missing' if key not in stated else 'not expected'}"
            else:
                yield from _differences(stated[key], expected[key], inner)
    elif _is_number(stated) and _is_number(expected):
        # not a comparison with >: a NaN differs from everything
        if not abs(stated - expected) <= TOLERANCE * max(1.0, abs(expected)):
            yield f"{place} is {stated!r}, recomputed {expected!r}"
    elif stated != expected:
        yield f"{place} is {stated!r}, recomputed {expected!r}"


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_rescore(run, certificate, count):
    sampling, device_name = certificate["sampling"], certificate["scored_on"]["device"]
    tolerance_bits = bounds.numeric_slack_bits(certificate["epsilon_nats"])
    try:
        device = choose_device(device_name)
    except InputError:
        device = choose_device("cpu")
        tolerance_bits = max(tolerance_bits, _OTHER_DEVICE_BITS)
        device_name = f"{device_name}, checked on cpu"
    message, model = read_model(run / certificate["hypothesis"]["message"]["path"], device)
    store = TokenStore((run / certificate["corpus"]["index"]["path"]).parent)
    items = list(draw_items(message, store, run / sampling["draws"]["path"], sampling["name"]))
    # Not a seeded sample: whoever made the records must not know which ones are looked at.
    chosen = sorted(np.random.default_rng().choice(len(items), size=min(count, len(items)), replace=False))
    paths = [run / item["path"] for item in certificate["records"]]
    records = read_records(paths, head=message.head is not None, ragged=sampling["mode"] == "document")
    starts = np.cumsum([0, *(item.targets.size for item in items)])
    scored = score_items(model, [items[i] for i in chosen], batch_tokens=1, name=certificate["name"])
    differences, wrong = [], []
    for i, columns in zip(chosen, scored, strict=True):
        recorded = {key: column[starts[i] : starts[i + 1]] for key, column in records.items()}
        names = ["log2_q", "rank", "entropy_bits", "alpha"][: len(columns)]
        differences.append(largest_difference([recorded[key] for key in names], columns) / LN2)
        wrong += _wrong_columns(model, items[i], recorded, columns, tolerance_bits)
    difference = float(np.max(differences))  # a NaN stays one
    others = "ranks, entropies and contexts as recorded"
    if wrong:
        others = f"not as recorded: {wrong[0]} ({len(wrong)} differences)"
    detail = f"{len(chosen)} items scored again ({device_name}) differ by at most {difference:.2g} bits"
    detail += f", {tolerance_bits:.2g} are allowed; {others}"
    yield Check("rescore", difference <= tolerance_bits and not wrong, detail)


def _wrong_columns(model, item, recorded, scored, tolerance_bits):
    """Name the recorded columns of an item that its scoring again does not confirm."""
    entropy_tolerance = max(tolerance_bits, _ENTROPY_TOLERANCE_BITS)
    least, greatest = rank_interval(model, item, LN2 * entropy_tolerance)
    confirmed = {
        # also by itself: the bounds with a constant smoothing do not know the head's
        "log2_q": np.abs(recorded["log2_q"] - scored[0]) <= tolerance_bits,
        "entropy_bits": np.abs(recorded["entropy_bits"] - scored[2]) <= entropy_tolerance,
        "rank": (least <= recorded["rank"]) & (recorded["rank"] <= greatest),
        "context_length": recorded["context_length"] == item.contexts,
        "document": recorded["document"] == item.document,
    }
    return [f"{key} of draw {item.draw}" for key, held in confirmed.items() if not held.all()]
