"""Checks that a stranger can run on a certificate: everything that follows from its files, computed again."""

import dataclasses
import math
import os
import re
from pathlib import Path

from tokenbounds.bounds.methods import ADDED, METHODS
from tokenbounds.certificates.checks import Check, one_line, printable
from tokenbounds.certificates.confined import check_place, check_run
from tokenbounds.certificates.corpus_facts import repetition_in_words
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.make import make_certificate, population
from tokenbounds.certificates.rescore import rescore
from tokenbounds.certificates.retokenize import retokenize
from tokenbounds.certificates.shape import NotWhole
from tokenbounds.codecs.archive import compressed_again
from tokenbounds.codecs.decode import read_message
from tokenbounds.codecs.header import complexity_bits, published_folder
from tokenbounds.corpus.sampling import context_of
from tokenbounds.corpus.store import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file

TOLERANCE = 1e-12  # relative, of a bound recomputed from its records
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*){3}")


def verify_certificate(path, *, rescored=0, retokenized=0):
    """Check a certificate against the files it names.

    Everything in it that follows from those files is computed again. What does not follow from them is taken
    as stated; `taken_as_stated` lists it.

    Parameters
    ----------
    path : path
        ``results/{run}/bounds/{name}.json``; the files it names are looked for in ``results/{run}``.
    rescored : int or "all"
        Number of drawn items to score again with the decoded model.
    retokenized : int or "all"
        Number of documents to read from their source and tokenize again.

    Yields
    ------
    Check
        One per file and per property. A check that cannot be made because a file is missing or torn does not
        hold.
    """
    for check in _checks(Path(os.path.abspath(path)), rescored, retokenized):
        yield dataclasses.replace(check, detail=printable(check.detail))


def _checks(path, rescored, retokenized):
    run = path.parent.parent.resolve()
    try:
        check_place(run, run / path.parent.name / path.name)
        certificate = read_certificate(path)
    except NotWhole as error:
        yield Check("certificate", False, str(error))
        return
    except InputError as error:
        raise InputError(printable(str(error))) from None
    try:
        check_run(run, certificate, path.stem)
    except InputError as error:
        # Nothing else is opened where some of it lies outside, or need not end.
        yield Check("folder", False, str(error))
        return
    yield from _guarded("files", lambda: _check_files(run, certificate))
    yield from _guarded("corpus", lambda: _check_store(run, certificate))
    yield from _guarded("message", lambda: _check_message(run, certificate))
    yield from _guarded("bounds", lambda: _check_bounds(run, certificate, path.stem))
    if rescored:
        yield from _guarded("rescore", lambda: rescore(run, certificate, rescored))
    if retokenized:
        yield from _guarded("retokenize", lambda: retokenize(run, certificate, retokenized))


def taken_as_stated(certificate):
    """List what no check of a certificate can show, one line each: whoever relies on it takes it from the
    certificate.

    Parameters
    ----------
    certificate : dict
        One that `verify_certificate` has checked.

    Returns
    -------
    list of str
    """
    settings, sampling = certificate["settings"], certificate["sampling"]
    corpus, where = certificate["corpus"], certificate["scored_on"]
    beacon = repr(sampling["beacon"]) if sampling["beacon"] else "none"
    attempt = f", attempt {settings['attempt']} of an open number" if "attempt" in settings else ""
    grids = ", ".join(key for key in sorted(settings) if key not in ("candidates", "top_k", "attempt"))
    tokenizer = corpus["tokenizer"]["assumes"]
    return [
        f"delta = {certificate['delta']:g}, fixed before any draw was known",
        f"n = {certificate['n']:,}, fixed before any draw was known",
        f"beacon {beacon}: not known when message and index were fixed",
        f"candidates = {settings['candidates']}{attempt}: no more results were computed to choose from",
        f"grids fixed beforehand: {grids}",
        f"tokenizer: {tokenizer}",
        "documents left out: by the seeds in documents.json, fixed before any draw was known",
        *(["sanity check of the published model"] if "sanity_check" in certificate else []),
        f"text: '{corpus['name']}' is what the certificate is read to be about",
        f"text: {repetition_in_words(corpus)} (counted again by --retokenize all)",
        f"device {where['device']}, arithmetic {where['dtype']}: the program that is bounded ran there",
    ]


def _check_files(run, certificate):
    for name, item in _named_files(certificate):
        digest = sha256_file(_inside(run, item["path"]))
        held = digest == item["sha256"]
        found = f"{item['path']} sha256 {digest[:16]}"
        yield Check(name, held, found + ("" if held else f", expected {str(item['sha256'])[:16]}"))


def _inside(run, name):
    """Return the path of a file that a certificate names; an `InputError` if it is none, or not below the
    run's folder."""
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise InputError(f"{name}: outside the run's folder; expected a file in {run.name}/")
    if not path.is_file():
        raise InputError(f"{name}: no such file in {run.name}/")
    return path


def _named_files(certificate):
    yield "message file", certificate["hypothesis"]["message"]
    yield "index file", certificate["corpus"]["index"]
    for number, item in enumerate(certificate["records"]):
        yield f"records file {number}", item


def _guarded(name, check):
    """Yield the checks of a generator; any exception ends them with one that did not hold.

    An edited certificate or sidecar can hold anything anywhere; whatever follows from that, the check was not
    passed."""
    try:
        yield from check()
    except InputError as error:
        yield Check(name, False, str(error))
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # libraries in Rust raise a PanicException, which is no Exception
        yield Check(name, False, f"cannot be checked ({one_line(error)})")


def _check_store(run, certificate):
    corpus = certificate["corpus"]
    store = TokenStore((run / corpus["index"]["path"]).parent)
    store.check_shards()
    expected = population(store.m, len(store.ends), certificate["sampling"])
    held = (
        certificate["m"] == expected
        and corpus["tokens"] == store.m
        and certificate["vocab_size"] == store.vocab_size
        and corpus["identity"] == store.identity
    )
    detail = f"all token shards are those of the index, EOTs where it says that documents end; m = {expected}"
    yield Check("corpus", held, detail + f", certificate says {certificate['m']}")


def _check_message(run, certificate):
    hypothesis = certificate["hypothesis"]
    path = run / hypothesis["message"]["path"]
    message = read_message(path)
    bits = complexity_bits(path, message)
    schemes, head = message.config["contexts"]["schemes"], message.head
    stated = {
        "config": message.config["hypothesis"],
        "arithmetic": message.config["contexts"]["arithmetic"],
        "codec": message.codec,
        "message_bits": bits,
    }
    held = all(hypothesis[key] == value for key, value in stated.items())
    held = held and hypothesis.get("alpha_head") == (head.config["alpha_head"] if head else None)
    held = held and context_of(certificate["sampling"]) in schemes
    family = message.config["hypothesis"]["family"]
    yield Check(
        "message", held, f"decodes to {len(message.tensors)} tensors of a {family} model; C(h) = {bits} bits"
    )
    if "files" in message.config:
        size, named = compressed_again(message, published_folder(path)), message.config["compressed_bytes"]
        detail = f"the published files are the message's and compress to {size} bytes; {named} are stated"
        yield Check("size", size <= named, detail)
    # The message holds the contexts of all sampling schemes: which of them a certificate is about is a
    # choice, and a term of the complexity.
    needed, paid = math.log2(len(schemes)), certificate["choices_bits"].get("sampling scheme", 0)
    detail = (
        f"{paid:g} bits are stated for the choice of one of {len(schemes)} schemes, {needed:g} are needed"
    )
    yield Check("choices", paid >= needed, detail)


def _check_bounds(run, certificate, name):
    stated = {key: certificate[key] for key in ("delta", "settings", "choices_bits")}
    sampling = certificate["sampling"]
    scheme = context_of(sampling) | {"n": certificate["n"], "beacon": sampling["beacon"]}
    if not _NAME.fullmatch(name):
        raise InputError(f"{name:.80}: expected MODEL.CODEC.CORPUS.SAMPLING as the certificate's name")
    again = make_certificate(run, name, **stated, parts=len(certificate["records"]), scheme=scheme)
    # It may have been made with other versions than those that check it.
    here = {key: certificate.get(key) for key in ("versions", "commit")}
    again = _with_stated_methods(again, certificate)
    different = list(_differences(certificate, again | here))
    count = sum(len(metric["bounds"]) for metric in again["metrics"].values())
    detail = f"draws derived from the message, {count} bounds recomputed: the same to {TOLERANCE:g}"
    if different:
        detail = f"{different[0]} ({len(different)} differences)"
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
    elif isinstance(stated, list) and isinstance(expected, list) and len(stated) == len(expected):
        for number, pair in enumerate(zip(stated, expected, strict=True)):
            yield from _differences(*pair, f"{place}[{number}]")
    elif type(stated) is not type(expected) or stated != expected:  # true is 1 in Python
        yield f"{place} is {stated!r}, recomputed {expected!r}"


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
