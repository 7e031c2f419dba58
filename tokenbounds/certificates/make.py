"""Making a certificate: every bound of one record set, and all that it rests on."""

import re
from pathlib import Path

import numpy as np

from tokenbounds.bounds.assumptions import CONDITIONING, DRAWS_STATEMENT, WITHOUT_BEACON
from tokenbounds.certificates.corpus_facts import corpus_facts, tokenizer_bits
from tokenbounds.certificates.evaluate import metrics
from tokenbounds.certificates.files import VERSION
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.header import complexity_bits, read_header
from tokenbounds.config.schema import Bounds, slice_of
from tokenbounds.corpus.sampling import context_of
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file
from tokenbounds.io.provenance import provenance
from tokenbounds.scoring.draws import message_draws
from tokenbounds.scoring.records import RANK_TOLERANCE_NATS, check_draws, read_records, read_sidecars

# Where scores depend on what else is in their batch, the largest difference of a sample is not that of all.
SMALLEST_EPSILON_NATS, SMALLEST_ENTROPY_EPSILON_BITS = 2e-5, 1e-4
DEVICE = re.compile(r"cpu|(cuda|mps|xpu)(:\d{1,2})?")
# Above it the scoring run is not reproducible enough to certify anything: a wrong dtype, or tampering.
LARGEST_EPSILON_NATS = 0.01
BITWISE = "scores are the same bits beside other inputs, in a sample of every part"
NOT_BITWISE = (
    "no score is further off than the stated epsilon, the largest difference in a sample that was scored "
    "again beside other inputs: evidence, not proof"
)


def make_certificate(run, name, *, delta, settings, choices_bits, parts, scheme):
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
        The `bounds` section of the configuration: grids and k; the certificate holds it with its defaults
        filled in.
    choices_bits : dict of str to float
        Choices that are not in the message, in bits, itemised.
    parts : int
        Number of record files.
    scheme : dict
        How draws are made: ``mode``, ``context_length``, ``window`` (of windows), ``n`` and ``beacon``.

    Returns
    -------
    dict
        The certificate, JSON-ready.

    Raises
    ------
    InputError
        A file is missing or torn, or the records were not computed from this message, its draws and this
        index.
    """
    run, settings = Path(run), slice_of(Bounds.model_validate(settings))
    model, codec, corpus, sampling = name.split(".")
    message_path = run / "messages" / f"{model}.{codec}.bin"
    index_path = run / "tokens" / corpus / "train" / "index.json"
    record_paths = [run / "risk" / name / f"{part:05d}.parquet" for part in range(parts)]
    message, index = read_header(message_path), CorpusIndex(index_path.parent)
    sidecars = read_sidecars(record_paths, [message_path, index_path])
    n, beacon = scheme["n"], scheme["beacon"]
    check_execution(record_paths, sidecars, message)
    context = context_of(scheme)
    rule = context_rule(message, context, str(message_path))
    check_draws(record_paths, n)
    draws, key = message_draws(message_path, index, context, n, beacon)
    bits = complexity_bits(message_path, message)
    check_path = run / "sanity_checks" / f"{model}.{codec}.json"
    facts = {
        "delta": delta,
        "m": population(index.m, index.documents, context),
        "n": n,
        "vocab_size": index.vocab_size,
        "choices_bits": choices_bits,
        **numeric_facts(record_paths, sidecars, settings["top_k"]),
        "settings": settings,
    }
    corpus_section = corpus_facts(run, corpus)
    paid = tokenizer_bits(corpus_section)
    return {
        "certificate": VERSION,
        "name": name,
        "assumes": [
            DRAWS_STATEMENT,
            *([] if beacon else [WITHOUT_BEACON]),
            CONDITIONING,
            BITWISE if facts["epsilon_nats"] == facts["entropy_epsilon_bits"] == 0 else NOT_BITWISE,
        ],
        **facts,
        "tokenizer_bits": paid,
        "hypothesis": {"model": model} | hypothesis_facts(run, message_path, message, bits),
        "corpus": {
            "name": corpus,
            "index": file_entry(run, index_path),
            "identity": index.identity,
            "tokens": index.m,
            "documents": index.documents,
            **corpus_section,
        },
        "sampling": {
            "name": sampling,
            **context,
            "effective_context_length": rule.length,
            "beacon": beacon,
            "key": key.hex(),
        },
        "records": [file_entry(run, path) for path in record_paths],
        **(
            {"sanity_check": file_entry(run, check_path) | sanity_check_facts(check_path)}
            if check_path.exists()
            else {}
        ),
        "scored_on": {
            key: ", ".join(sorted({sidecar[key] for sidecar in sidecars})) for key in ("device", "dtype")
        },
        "metrics": metrics(
            records_of(record_paths, draws, message, context, index),
            bits,
            **facts | {"choices_bits": choices_bits | paid},
            **smoothing(message, context),
        ),
        **provenance({"delta": delta, "bounds": settings, "choices_bits": choices_bits, "sampling": scheme}),
    }


def hypothesis_facts(run, path, message, bits):
    """Say what the message in a file holds, and how many bits it takes."""
    return {
        "codec": message.codec,
        "config": message.config["hypothesis"],
        "arithmetic": message.config["contexts"]["arithmetic"],
        **({"alpha_head": message.head.config["alpha_head"]} if message.head else {}),
        "message": file_entry(run, path),
        "message_bytes": bits // 8,
        "message_bits": bits,
        **measured(message),
    }


def check_execution(paths, sidecars, message):
    """Refuse records of another arithmetic than the message's, or of a device that is none."""
    for path, sidecar in zip(paths, sidecars, strict=True):
        if sidecar["dtype"] != (dtype := message.config["contexts"]["arithmetic"]["dtype"]):
            raise InputError(
                f"{path}: scored in {sidecar['dtype']!r:.40}; expected {dtype}, as the message says"
            )
        if not DEVICE.fullmatch(sidecar["device"]):
            raise InputError(f"{path}: scored on {sidecar['device']!r:.40}; expected cpu, cuda:0, ...")


def numeric_facts(paths, sidecars, top_k):
    """Collect how far recorded scores may be off, from the sidecars of all parts; ranks count near-ties, so
    those of `top_k` must not be off by more."""
    largest = {}
    for key, smallest in (
        ("epsilon_nats", SMALLEST_EPSILON_NATS),
        ("entropy_epsilon_bits", SMALLEST_ENTROPY_EPSILON_BITS),
    ):
        for path, sidecar in zip(paths, sidecars, strict=True):
            if not 0 <= sidecar[key] <= LARGEST_EPSILON_NATS:  # not: a NaN is refused too
                differ = f"{key} is {sidecar[key]!r}: scores differ beside other inputs"
                raise InputError(f"{path}: {differ}; expected at most {LARGEST_EPSILON_NATS:g}")
        value = max(sidecar[key] for sidecar in sidecars)
        largest[key] = max(smallest, value) if value else 0.0
    if top_k and largest["epsilon_nats"] > RANK_TOLERANCE_NATS / 2:
        differ = f"epsilon_nats is {largest['epsilon_nats']:g}: tokens beyond near-ties may change places"
        raise InputError(
            f"{paths[0]}: {differ}; expected at most {RANK_TOLERANCE_NATS / 2:g}, or an empty bounds.top_k"
        )
    return largest


SANITY_FACTS = ("bits_per_token", "random_guess", "limit", "limit_is", "documents", "bad")


def sanity_check_facts(path):
    """Read the result of the sanity check of a published model."""
    check = read_json(path)
    return {key: check[key] for key in SANITY_FACTS}


def measured(message):
    """Say how the bits of a message were counted, and list the published files behind them."""
    if "files" not in message.config:
        return {
            "measured_as": "8 times the bytes of the coded message, from which the scored model was decoded"
        }
    planes = " of byte planes" if message.codec["split_planes"] else ""
    tool = f"{message.codec['tool']} -{message.codec['level']}{planes}"
    counted = f"8 times the bytes of the published files after {tool}, and of the frame that names them"
    return {"measured_as": counted, "files": message.config["files"]}


def file_entry(run, path):
    """Return the path of a file relative to the run, and its sha256."""
    return {"path": str(path.relative_to(run)), "sha256": sha256_file(path)}


def population(tokens, documents, context):
    """Count m, the data points that are drawn from.

    Windows drop one tail of the whole stream (docs/theory.md, section 5).
    """
    if context["mode"] == "document":
        return documents
    return tokens // context.get("window", 1) * context.get("window", 1)


def smoothing(message, context):
    """Return the arguments of `metrics` that a hypothesis decides: sampling mode, and range of its head."""
    head = message.head.config["alpha_head"] if message.head else None
    return {"mode": context["mode"], "alpha_range": head and (head["low"], head["high"])}


def records_of(paths, draws, message, context, index):
    """Read columns log2_q, rank, entropy_bits (and alpha) as `metrics` takes them.

    They are checked against the draws: every token that is due is there, once.
    """
    head, documents = message.head is not None, context["mode"] == "document"
    records = read_records(paths, head=head, ragged=documents)
    names = ["log2_q", "rank", "entropy_bits", *(["alpha"] if head else [])]
    size = context.get("window", 1)
    if documents:
        first, ends = draws["position"].to_numpy(), index.ends[draws["document"].to_numpy()].astype(np.int64)
        counts = np.minimum(ends - first, context_rule(message, context, str(paths[0])).length)
        expected = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    else:
        expected = (draws["position"].to_numpy()[:, None] + np.arange(size)).ravel()
    if records["position"].size != expected.size or (records["position"] != expected).any():
        counted = f"{records['position'].size} records for {len(draws)} draws"
        raise InputError(f"{paths[0]}: the records' positions are not the message's draws ({counted})")
    if documents:
        return {name: records[name] for name in names} | {"tokens_per_draw": counts}
    shape = (len(draws),) if context["mode"] == "token" else (len(draws), size)
    return {name: records[name].reshape(shape) for name in names}
