"""Making a certificate: every bound of one record set, and all that it rests on."""

from pathlib import Path

import numpy as np

from tokenbounds.certificates.evaluate import metrics
from tokenbounds.certificates.files import VERSION
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.header import complexity_bits, read_header
from tokenbounds.config.schema import Bounds, slice_of
from tokenbounds.corpus.sampling import read_positions
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file
from tokenbounds.io.provenance import provenance
from tokenbounds.scoring.records import read_records, read_sidecars

SMALLEST_EPSILON_NATS = 2e-5  # float32 rounding: the largest difference of a sample is not the largest of all
# Above it the scoring run is not reproducible enough to certify anything: a wrong dtype, or tampering.
LARGEST_EPSILON_NATS = 0.01


def make_certificate(run, name, *, delta, settings, choices_bits, parts):
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

    Returns
    -------
    dict
        The certificate, JSON-ready.

    Raises
    ------
    InputError
        A file is missing or torn, or the records were not computed from this message, these draws and this
        index.
    """
    run, settings = Path(run), slice_of(Bounds.model_validate(settings))
    model, codec, corpus, sampling = name.split(".")
    message_path = run / "messages" / f"{model}.{codec}.bin"
    index_path = run / "tokens" / corpus / "train" / "index.json"
    draws_path = run / "positions" / f"{corpus}.{sampling}.parquet"
    record_paths = [run / "risk" / name / f"{part:05d}.parquet" for part in range(parts)]
    message = read_header(message_path)
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
    check_path = run / "sanity_checks" / f"{model}.{codec}.json"
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
        **(
            {"sanity_check": file_entry(run, check_path) | sanity_check_facts(check_path)}
            if check_path.exists()
            else {}
        ),
        "scored_on": {
            key: ", ".join(sorted({sidecar[key] for sidecar in sidecars})) for key in ("device", "dtype")
        },
        "metrics": metrics(
            records_of(record_paths, draws, message, sampling, store),
            bits,
            **facts,
            **smoothing(message, sampling),
        ),
        **provenance({"delta": delta, "bounds": settings, "choices_bits": choices_bits}),
    }


def sanity_check_facts(path):
    """Read the result of the sanity check of a published model."""
    check = read_json(path)
    return {key: check[key] for key in ("bits_per_token", "random_guess", "documents", "bad")}


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


def tokenizer_facts(run, corpus):
    """Say where the tokenizer comes from, which documents are left out of m, and the assumption it needs."""
    folder = run / "tokens" / corpus
    info, roles = read_json(folder / "tokenizer" / "info.json"), read_json(folder / "documents.json")["roles"]
    trained = info["kind"] == "train"
    made_elsewhere = "the tokenizer was not made from the counted tokens (docs/theory.md, section 2)"
    assumed = "nothing" if trained else made_elsewhere
    return {
        "tokenizer": {**{key: info[key] for key in ("kind", "sha256", "eot", "eot_id")}, "assumes": assumed},
        "documents_left_out": {"tokenizer": roles["tokenizer"], "validation": roles["val"]},
    }


def population(tokens, documents, context):
    """Count m, the data points that are drawn from.

    Windows drop one tail of the whole stream (docs/theory.md, section 5).
    """
    if context["mode"] == "document":
        return documents
    return tokens // context.get("window", 1) * context.get("window", 1)


def smoothing(message, sampling):
    """Return the arguments of `metrics` that a hypothesis decides: sampling mode, and range of its head."""
    head = message.head.config["alpha_head"] if message.head else None
    return {
        "mode": message.config["contexts"][sampling]["mode"],
        "alpha_range": head and (head["low"], head["high"]),
    }


def records_of(paths, draws, message, sampling, index):
    """Read columns log2_q, rank, entropy_bits (and alpha) as `metrics` takes them.

    They are checked against the draws: every token that is due is there, once.
    """
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
        counted = f"{records['position'].size} records for {len(draws)} draws"
        raise InputError(f"{paths[0]}: the records' positions are not the drawn ones ({counted})")
    if documents:
        return {name: records[name] for name in names} | {"tokens_per_draw": counts}
    shape = (len(draws),) if context["mode"] == "token" else (len(draws), size)
    return {name: records[name].reshape(shape) for name in names}
