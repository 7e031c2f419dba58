"""Records: one row per scored token, in draw order. All bounds of all methods come from them, without a model."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus import TokenStore, read_positions
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, check_sha256, provenance, read_json, sha256_file, write_json
from tokenbounds.hypothesis import context_rule, read_model
from tokenbounds.scoring import document_items, rescoring_difference, score_items, token_items, window_items

SCHEMA = pa.schema(
    {
        "draw": pa.int64(),
        "position": pa.int64(),
        "document": pa.int64(),
        "context_length": pa.int32(),
        "log2_q": pa.float64(),
        "rank": pa.int32(),
        "entropy_bits": pa.float64(),
    }
)
ALPHA = pa.field("alpha", pa.float64())  # of a hypothesis with a smoothing head


def score_part(
    message_path, draws_path, store_folder, records_path, sidecar_path, *, name, sampling, part, parts, seed, batch_tokens, device
):
    """Score the draws of one part and write their records.

    Parameters
    ----------
    message_path : path
        The coded model; what is scored is decoded from it.
    draws_path : path
        Drawn positions or windows.
    store_folder : path
        Folder of the token index.
    records_path, sidecar_path : path
        Outputs: parquet, and json with its sha256, those of the inputs, and the largest difference of a second scoring in another batch
        shape (``epsilon_nats``).
    name : str
        The model's name in errors and on the progress bar.
    sampling : str
        Name of the sampling scheme.
    part, parts : int
        This part of so many: consecutive draws, so that the parts joined are in draw order.
    seed : int
        The run's seed (stream "rescore").
    batch_tokens : int
        Most tokens per batch.
    device : str
        torch device, or "auto".
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    items = list(draw_items(message, TokenStore(store_folder), draws_path, sampling, part, parts, where=str(message_path)))
    scored = score_items(model, items, batch_tokens=batch_tokens, name=name, progress=True)
    epsilon = rescoring_difference(model, items, scored, seed=seed, stream=f"{name}.{sampling}.{part}", name=name)
    write_records(records_path, records_table(items, scored))
    config = {"sampling": sampling, "part": part, "parts": parts}
    facts = {"epsilon_nats": epsilon, "device": str(target), "dtype": "float32", "batch_tokens": batch_tokens, "seed": seed}
    inputs = [message_path, draws_path, Path(store_folder) / "index.json"]
    write_json(sidecar_path, provenance(config, inputs, sha256=sha256_file(records_path), **facts))


def read_sidecars(records_paths, inputs):
    """Read the sidecars of records and check that both belong together: records of another message would give another model's bound.

    Parameters
    ----------
    records_paths : list of path
        The parts; their sidecars are beside them.
    inputs : list of path
        The message, draws and index that the records must have been computed from.

    Returns
    -------
    list of dict

    Raises
    ------
    InputError
        A file is missing, records are not those that their sidecar was written with, or they were computed from another input.
    """
    hashes = {Path(path).name: sha256_file(path) for path in inputs}
    sidecars = []
    for path in map(Path, records_paths):
        sidecar = read_json(path.with_suffix(".json"))
        check_sha256(path, sidecar["sha256"])
        used = {Path(name).name: digest for name, digest in sidecar["inputs"].items()}
        for name, digest in hashes.items():
            if used.get(name) != digest:
                expected = f"expected the present one (sha256 {digest[:12]}...)"
                raise InputError(f"{path}: computed from another {name} (sha256 {str(used.get(name))[:12]}...), {expected}")
        sidecars.append(sidecar)
    return sidecars


def draw_items(message, store, draws_path, sampling, part=0, parts=1, where="message"):
    """Items of the draws of one part, in draw order (see `tokenbounds.scoring`)."""
    vocab_size = message.config["hypothesis"]["vocab_size"]
    if vocab_size != store.vocab_size:
        raise InputError(f"{where}: the model predicts {vocab_size} tokens; expected the corpus' vocabulary of {store.vocab_size}")
    rule = context_rule(message, sampling, where)
    draws = read_positions(draws_path, store)
    first, stop = (len(draws) * number // parts for number in (part, part + 1))
    context = message.config["contexts"][sampling]
    if context["mode"] == "token":
        yield from token_items(store, draws["position"][first:stop], rule, first)
    elif context["mode"] == "document":
        yield from document_items(store, draws["document"][first:stop], rule, first)
    else:
        yield from window_items(store, draws["window"][first:stop], context["window"], rule, first)


def records_table(items, scored):
    """Records (one row per scored token, in draw order) as an Arrow table."""
    counts = [item.targets.size for item in items]
    columns = {
        "draw": np.repeat([item.draw for item in items], counts),
        "position": np.concatenate([item.positions for item in items]),
        "document": np.repeat([item.document for item in items], counts),
        "context_length": np.concatenate([item.contexts for item in items]),
        "log2_q": np.concatenate([found[0] for found in scored]),
        "rank": np.concatenate([found[1] for found in scored]).astype(np.int32),
        "entropy_bits": np.concatenate([found[2] for found in scored]),
    }
    if len(scored[0]) == 3:
        return pa.table(columns, schema=SCHEMA)
    return pa.table(columns | {"alpha": np.concatenate([found[3] for found in scored])}, schema=SCHEMA.append(ALPHA))


def write_records(path, table):
    """Write records to parquet, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_records(paths, *, head=False, ragged=False):
    """Read the parts of a record set and check that they are whole and in draw order.

    Parameters
    ----------
    paths : list of path
        The parts, in order.
    head : bool
        Whether they are of a hypothesis with a smoothing head: they have the column `ALPHA` then, and only then.
    ragged : bool
        Whether draws may have different numbers of tokens (documents).

    Returns
    -------
    dict of str to ndarray
        Columns of `SCHEMA`.

    Raises
    ------
    InputError
        A part is not readable or has other columns, draws are missing or out of order, or a number is not finite.
    """
    tables, names = [], [*SCHEMA.names, *([ALPHA.name] if head else [])]
    for path in paths:
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:120]})") from None
        if table.schema.names != names:
            raise InputError(f"{path}: columns {', '.join(table.schema.names)}; expected {', '.join(names)}")
        tables.append(table)
    table = pa.concat_tables(tables)
    columns = {name: table[name].to_numpy() for name in names}
    where = ", ".join(map(str, paths[:1])) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    draws = columns["draw"]
    if draws.size == 0:
        raise InputError(f"{where}: no records")
    per_draw = np.bincount(draws, minlength=1) if draws.min() >= 0 else np.zeros(1)
    uneven = not ragged and (per_draw != per_draw[0]).any()
    if draws[0] != 0 or (np.diff(draws) < 0).any() or (per_draw == 0).any() or uneven:
        expected = "every draw 0, 1, 2, ... in that order" + ("" if ragged else ", with equally many tokens")
        raise InputError(f"{where}: draws are missing or out of order; expected {expected}")
    for name in ("log2_q", "entropy_bits", *names[len(SCHEMA.names) :]):
        if not np.isfinite(columns[name]).all():
            raise InputError(f"{where}: {name} of record {int(np.flatnonzero(~np.isfinite(columns[name]))[0])} is not finite")
    return columns
