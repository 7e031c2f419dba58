"""Certificates: what a bound was computed from, the bound itself, and the checks that a stranger can run on it."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from tokenbounds import bounds
from tokenbounds.corpus import CorpusIndex, TokenStore, draw, read_positions
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.files import provenance, read_json, sha256_file, write_json
from tokenbounds.hypothesis import complexity_bits, context_rule, published_folder, read_message, read_model
from tokenbounds.metrics import ASSUMES, metrics
from tokenbounds.published import compressed_again
from tokenbounds.records import draw_items, read_records, read_sidecars
from tokenbounds.scoring import LN2, largest_difference, rank_interval, score_items
from tokenbounds.sections import Bounds, Sampling, slice_of

VERSION = 1
SMALLEST_EPSILON_NATS = 2e-5  # float32 rounding: the largest difference of a sample is not the largest of all
LARGEST_EPSILON_NATS = 0.01  # above it the scoring run is not reproducible enough to certify anything: a wrong dtype, or tampering
_ENTROPY_TOLERANCE_BITS = 1e-4
_OTHER_DEVICE_BITS = 1e-3  # another device computes a slightly different function

TOLERANCE = 1e-12  # relative, of a bound recomputed from its records


def make(run, name, *, delta, settings, choices_bits, parts):
    """Compute all bounds of one record set and everything they rest on.

    Parameters
    ----------
    run : path
        Folder of the run; paths in the certificate are relative to it.
    name : str
        ``model.codec.corpus.sampling``.
    delta : float
        Failure probability of each bound.
    settings : dict
        The `bounds` section of the configuration: grids and k; the certificate holds it with its defaults filled in.
    choices_bits : dict of str to float
        Choices that are not in the message, in bits, itemised.
    parts : int
        Number of record files.

    Returns
    -------
    dict
        The certificate, JSON-ready.

    Raises
    ------
    InputError
        A file is missing or torn, or the records were not computed from this message, these draws and this index.
    """
    run, settings = Path(run), slice_of(Bounds.model_validate(settings))
    model, codec, corpus, sampling = name.split(".")
    message_path = run / "messages" / f"{model}.{codec}.bin"
    index_path = run / "tokens" / corpus / "train" / "index.json"
    draws_path = run / "positions" / f"{corpus}.{sampling}.parquet"
    record_paths = [run / "risk" / name / f"{part:05d}.parquet" for part in range(parts)]
    message = read_message(message_path)
    index = read_json(index_path)
    sidecars = read_sidecars(record_paths, [message_path, draws_path, index_path])
    for path, sidecar in zip(record_paths, sidecars, strict=True):
        if not 0 <= sidecar["epsilon_nats"] <= LARGEST_EPSILON_NATS:  # not: a NaN is refused too
            differ = f"scores differ by {sidecar['epsilon_nats']:g} nats between batch shapes"
            raise InputError(f"{path}: {differ}; expected at most {LARGEST_EPSILON_NATS:g}")
    epsilon_nats = max(SMALLEST_EPSILON_NATS, *(sidecar["epsilon_nats"] for sidecar in sidecars))
    context = message.config["contexts"][sampling]
    store = CorpusIndex(index_path.parent)
    draws = read_positions(draws_path, store)
    bits = complexity_bits(message_path, message)
    gate_path = run / "gates" / f"{model}.{codec}.json"
    facts = {
        "delta": delta,
        "m": population(index["m_tokens"], index["documents"], context),
        "n": len(draws),
        "vocab_size": index["vocab_size"],
        "choices_bits": choices_bits,
        "epsilon_nats": epsilon_nats,
        "settings": settings,
    }
    return {
        "certificate": VERSION,
        "name": name,
        **facts,
        "hypothesis": {
            "model": model,
            "codec": message.codec,
            "config": message.config["hypothesis"],
            **({"alpha_head": message.head.config["alpha_head"]} if message.head else {}),
            "message": file_entry(run, message_path),
            "message_bytes": bits // 8,
            "message_bits": bits,
            **measured(message),
        },
        "corpus": {
            "name": corpus,
            "index": file_entry(run, index_path),
            "tokens": index["m_tokens"],
            "documents": index["documents"],
            **tokenizer_facts(run, corpus),
        },
        "sampling": {
            "name": sampling,
            **context,
            "effective_context_length": context_rule(message, sampling, str(message_path)).length,
            "seed": sidecars[0]["seed"],
            "draws": file_entry(run, draws_path),
        },
        "records": [file_entry(run, path) for path in record_paths],
        **({"gate": file_entry(run, gate_path) | gate_facts(gate_path)} if gate_path.exists() else {}),
        "scored_on": {key: ", ".join(sorted({sidecar[key] for sidecar in sidecars})) for key in ("device", "dtype")},
        "metrics": metrics(records_of(record_paths, draws, message, sampling, store), bits, **facts, **smoothing(message, sampling)),
        **provenance({"delta": delta, "bounds": settings, "choices_bits": choices_bits}),
    }


def gate_facts(path):
    """What the sanity gate found of a published model."""
    gate = read_json(path)
    return {key: gate[key] for key in ("bits_per_token", "random_guess", "documents", "bad")}


def measured(message):
    """What the bits of a message are those of, and the published files behind them."""
    if "files" not in message.config:
        return {"measured_as": "8 times the bytes of the coded message, from which the scored model was decoded"}
    tool = f"{message.codec['tool']} -{message.codec['level']}{' of byte planes' if message.codec['split_planes'] else ''}"
    return {
        "measured_as": f"8 times the bytes of the published files after {tool}, and of the frame that names them",
        "files": message.config["files"],
    }


def file_entry(run, path):
    """Path relative to the run, and sha256."""
    return {"path": str(path.relative_to(run)), "sha256": sha256_file(path)}


def tokenizer_facts(run, corpus):
    """Where the tokenizer comes from, how many documents are left out of m for it, and what has to be assumed of it."""
    folder = run / "tokens" / corpus
    info, roles = read_json(folder / "tokenizer" / "info.json"), read_json(folder / "documents.json")["roles"]
    trained = info["kind"] == "train"
    assumed = "nothing" if trained else "the tokenizer was not made from the counted tokens (docs/theory.md, section 2)"
    return {
        "tokenizer": {**{key: info[key] for key in ("kind", "sha256", "eot", "eot_id")}, "assumes": assumed},
        "documents_left_out": {"tokenizer": roles["tokenizer"], "validation": roles["val"]},
    }


def population(tokens, documents, context):
    """m: the data points that are drawn from. Windows drop one tail of the whole stream (docs/theory.md, section 5)."""
    if context["mode"] == "document":
        return documents
    return tokens // context.get("window", 1) * context.get("window", 1)


def smoothing(message, sampling):
    """What `metrics` needs to know of a hypothesis: the sampling mode, and the declared range of its smoothing head."""
    head = message.head.config["alpha_head"] if message.head else None
    return {"mode": message.config["contexts"][sampling]["mode"], "alpha_range": head and (head["low"], head["high"])}


def records_of(paths, draws, message, sampling, index):
    """Columns log2_q, rank, entropy_bits (and alpha) as `metrics` takes them, checked against the draws: every token that is due, once."""
    context, head = message.config["contexts"][sampling], message.head is not None
    documents = context["mode"] == "document"
    records = read_records(paths, head=head, ragged=documents)
    names = ["log2_q", "rank", "entropy_bits", *(["alpha"] if head else [])]
    size = context.get("window", 1)
    if documents:
        first, ends = draws["position"].to_numpy(), index.ends[draws["document"].to_numpy()].astype(np.int64)
        counts = np.minimum(ends - first, context_rule(message, sampling, str(paths[0])).length)
        expected = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    else:
        expected = (draws["position"].to_numpy()[:, None] + np.arange(size)).ravel()
    if records["position"].size != expected.size or (records["position"] != expected).any():
        raise InputError(
            f"{paths[0]}: the records' positions are not the drawn ones ({records['position'].size} records for {len(draws)} draws)"
        )
    if documents:
        return {name: records[name] for name in names} | {"tokens_per_draw": counts}
    shape = (len(draws),) if context["mode"] == "token" else (len(draws), size)
    return {name: records[name].reshape(shape) for name in names}


def write(path, certificate):
    """Write a certificate."""
    write_json(path, certificate)


def read(path):
    """Read a certificate; `InputError` names the file if it is not one of this version."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; expected a certificate, results/RUN/bounds/NAME.json")
    certificate = read_json(path)
    if not isinstance(certificate, dict) or certificate.get("certificate") != VERSION:
        raise InputError(f"{path}: not a tokenbounds certificate of version {VERSION}")
    return certificate


# ---------------------------------------------------------------- verification


@dataclasses.dataclass(frozen=True)
class Check:
    """Outcome of one check."""

    name: str
    held: bool
    detail: str


def verify(path, rescore=0):
    """Check a certificate against the files it names.

    Everything in it that follows from those files is computed again. What does not follow from them is taken as stated: delta, the grids
    of the `bounds` section (they are paid for, but that they were fixed before the draws were seen cannot be known), and which models and
    corpora were looked at before these were reported.

    Parameters
    ----------
    path : path
        ``results/{run}/bounds/{name}.json``; the files it names are looked for in ``results/{run}``.
    rescore : int
        Number of drawn items to score again with the decoded model, one at a time.

    Yields
    ------
    Check
        One per file and per property. A check that cannot be made because a file is missing or torn does not hold.
    """
    path = Path(path).resolve()
    certificate = read(path)
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
        found = sha256_file(run / item["path"]) if (run / item["path"]).exists() else "missing"
        held = found == item["sha256"]
        yield Check(name, held, f"{item['path']} sha256 {found[:16]}" + ("" if held else f", expected {item['sha256'][:16]}"))


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
        # An edited certificate or sidecar can hold anything anywhere; whatever follows from that, the check was not passed.
        yield Check(name, False, f"cannot be checked ({type(error).__name__}: {' '.join(str(error).split())})")


def _check_store(run, certificate):
    corpus = certificate["corpus"]
    store = TokenStore((run / corpus["index"]["path"]).parent)
    store.check_shards()
    expected = population(store.m, len(store.ends), certificate["sampling"])
    held = certificate["m"] == expected and corpus["tokens"] == store.m and certificate["vocab_size"] == store.vocab_size
    detail = f"all token shards are those of the index, EOTs where it says that documents end; m = {expected}"
    yield Check("corpus", held, detail + f", certificate says {certificate['m']}")


def _check_message(run, certificate):
    hypothesis = certificate["hypothesis"]
    path = run / hypothesis["message"]["path"]
    message = read_message(path)
    bits = complexity_bits(path, message)
    context = {key: certificate["sampling"].get(key) for key in ("mode", "context_length", "window")}
    named = message.config["contexts"].get(certificate["sampling"]["name"], {})
    same = message.config["hypothesis"] == hypothesis["config"] and context == {key: named.get(key) for key in context}
    head = message.head.config["alpha_head"] if message.head else None
    held = same and bits == hypothesis["message_bits"] and hypothesis.get("alpha_head") == head
    family, schemes = message.config["hypothesis"]["family"], len(message.config["contexts"])
    yield Check("message", held, f"decodes to {len(message.tensors)} tensors of a {family} model; C(h) = {bits} bits")
    if "files" in message.config:
        found, stated = compressed_again(message, published_folder(path)), message.config["compressed_bytes"]
        yield Check("size", found <= stated, f"the published files are the message's and compress to {found} bytes; {stated} are stated")
    # The message holds the contexts of all sampling schemes: which of them a certificate is about is a choice, and is paid for.
    needed, paid = math.log2(schemes), certificate["choices_bits"].get("sampling scheme", 0)
    yield Check("choices", paid >= needed, f"{paid:g} bits are paid for one of {schemes} sampling schemes, {needed:g} are needed")


def _check_draws(run, certificate):
    sampling, corpus = certificate["sampling"], certificate["corpus"]
    index = CorpusIndex((run / corpus["index"]["path"]).parent)
    draws = read_positions(run / sampling["draws"]["path"], index)
    scheme = Sampling.model_validate(
        {"n": certificate["n"], **{key: sampling[key] for key in ("mode", "context_length", "window") if key in sampling}}
    )
    held = draws.equals(draw(index, scheme, sampling["seed"], corpus["name"]))
    yield Check("draws", held, f"{len(draws)} draws {'are' if held else 'are not'} the stream of seed {sampling['seed']}, in order")


def _check_bounds(run, certificate, name):
    stated = {key: certificate[key] for key in ("delta", "settings", "choices_bits")}
    again = make(run, name, **stated, parts=len(certificate["records"]))
    here = {key: certificate.get(key) for key in ("versions", "commit")}  # what it was made with, which need not be what checks it
    different = list(_differences(certificate, again | here))
    count = sum(len(metric["bounds"]) for metric in again["metrics"].values())
    detail = (
        f"{different[0]} ({len(different)} differences)"
        if different
        else f"{count} bounds recomputed from the records are the same to {TOLERANCE:g}"
    )
    yield Check("bounds", not different, detail)


def _differences(found, expected, where=""):
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            place = f"{where}.{key}" if where else key
            if key not in found or key not in expected:
                yield f"{place} is {'missing' if key not in found else 'not expected'}"
            else:
                yield from _differences(found[key], expected[key], place)
    elif _is_number(found) and _is_number(expected):
        if not abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):  # not: a NaN differs from everything
            yield f"{where} is {found!r}, recomputed {expected!r}"
    elif found != expected:
        yield f"{where} is {found!r}, recomputed {expected!r}"


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_rescore(run, certificate, count):
    sampling, name = certificate["sampling"], certificate["name"]
    tolerance_bits, where = bounds.numeric_slack_bits(certificate["epsilon_nats"]), certificate["scored_on"]["device"]
    try:
        device = choose_device(where)
    except InputError:
        device = choose_device("cpu")
        tolerance_bits, where = max(tolerance_bits, _OTHER_DEVICE_BITS), f"{where}, checked on cpu"
    message, model = read_model(run / certificate["hypothesis"]["message"]["path"], device)
    store = TokenStore((run / certificate["corpus"]["index"]["path"]).parent)
    items = list(draw_items(message, store, run / sampling["draws"]["path"], sampling["name"]))
    # Not a seeded sample: whoever made the records must not know which ones are looked at.
    chosen = sorted(np.random.default_rng().choice(len(items), size=min(count, len(items)), replace=False))
    documents = sampling["mode"] == "document"
    paths = [run / item["path"] for item in certificate["records"]]
    records = read_records(paths, head=message.head is not None, ragged=documents)
    starts = np.cumsum([0, *(item.targets.size for item in items)])
    scored = score_items(model, [items[i] for i in chosen], batch_tokens=1, name=name)
    differences, wrong = [], []
    for i, found in zip(chosen, scored, strict=True):
        item, recorded = items[i], {key: column[starts[i] : starts[i + 1]] for key, column in records.items()}
        columns = ["log2_q", "rank", "entropy_bits", "alpha"][: len(found)]
        differences.append(largest_difference([recorded[key] for key in columns], found) / LN2)
        least, greatest = rank_interval(model, item, LN2 * max(tolerance_bits, _ENTROPY_TOLERANCE_BITS))
        same = {
            # also by itself: the bounds with a constant smoothing do not know the head's
            "log2_q": np.abs(recorded["log2_q"] - found[0]) <= tolerance_bits,
            "entropy_bits": np.abs(recorded["entropy_bits"] - found[2]) <= max(tolerance_bits, _ENTROPY_TOLERANCE_BITS),
            "rank": (least <= recorded["rank"]) & (recorded["rank"] <= greatest),
            "context_length": recorded["context_length"] == item.contexts,
            "document": recorded["document"] == item.document,
        }
        wrong += [f"{key} of draw {item.draw}" for key, held in same.items() if not held.all()]
    difference = float(np.max(differences))  # a NaN stays one
    others = f"not as recorded: {wrong[0]} ({len(wrong)} differences)" if wrong else "ranks, entropies and contexts as recorded"
    detail = (
        f"{len(chosen)} items scored again ({where}) differ by at most {difference:.2g} bits, {tolerance_bits:.2g} are allowed; {others}"
    )
    yield Check("rescore", difference <= tolerance_bits and not wrong, detail)


# ---------------------------------------------------------------- for people


def units(certificate):
    """What m counts."""
    return "documents" if certificate["sampling"]["mode"] == "document" else "tokens"


def describe(certificate):
    """A certificate as text: every bound and the terms it is made of."""
    unit = {"bpd": "bits"}
    lines = [
        f"{certificate['name']}",
        f"  C(h) = {certificate['hypothesis']['message_bytes']:,} bytes, m = {certificate['m']:,} {units(certificate)}, "
        f"n = {certificate['n']:,} draws, "
        f"delta = {certificate['delta']:g}, V = {certificate['vocab_size']:,}",
        f"  {'metric':8}{'method':18}{'bound':>10}{'= risk':>10}{'+ complexity':>14}{'+ draws':>10}{'+ slack':>10}{'guess':>10}",
    ]
    for metric, entry in certificate["metrics"].items():
        for method, bound in entry["bounds"].items():
            saving = f"  {entry['saving_percent']:.0f}% below the formula" if method == "betting" else ""
            label = "azuma (formula)" if method == "azuma" else method
            terms = [bound[key] for key in ("value", "empirical_risk", "complexity_term", "subsample_term", "slack_term")]
            numbers = "".join(f"{term:{width}.4f}" for term, width in zip(terms, (10, 10, 14, 10, 10), strict=True))
            note = "  vacuous" if bound["value"] >= entry["random_guess"] else ""
            lines.append(f"  {metric:8}{label:18}{numbers}{entry['random_guess']:10.4f} {unit.get(metric, '')}{saving}{note}")
    lines += [f"  {method} assumes {assumed}" for method, assumed in ASSUMES.items() if assumed != "nothing more"]
    return "\n".join(lines)


__all__ = ["Check", "describe", "make", "metrics", "read", "verify", "write"]
