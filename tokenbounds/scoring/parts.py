"""One scoring job: the records of one part of a sampling scheme's draws.

::

    draws     0 1 2 3 | 4 5 6 7 | 8 9 ...
    part         0    |    1    |    2

Parts are consecutive draws, so the records of all parts, joined, are in draw order.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.contexts import document_items, token_items, window_items
from tokenbounds.corpus.sampling import read_positions
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.scoring.records import ALPHA, SCHEMA, write_records
from tokenbounds.scoring.score import rescoring_difference, score_items


def score_part(
    message_path,
    draws_path,
    store_folder,
    records_path,
    sidecar_path,
    *,
    name,
    sampling,
    part,
    parts,
    seed,
    batch_tokens,
    device,
):
    """Score the draws of one part and write their records.

    Parameters
    ----------
    message_path : path
        The coded model; the model to score is decoded from it.
    draws_path : path
        Drawn positions, windows or documents.
    store_folder : path
        Folder of the token index.
    records_path, sidecar_path : path
        Outputs: parquet; and json with its sha256, those of the inputs, and the largest difference from a
        second scoring in another batch shape (``epsilon_nats``).
    name : str
        The model's name in errors and on the progress bar.
    sampling : str
        Name of the sampling scheme.
    part, parts : int
        Number of this part, from 0, and number of parts.
    seed : int
        The run's seed (stream "rescore").
    batch_tokens : int
        Most tokens per batch.
    device : str
        torch device, or "auto".
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    store, source = TokenStore(store_folder), str(message_path)
    items = list(draw_items(message, store, draws_path, sampling, part, parts, name=source))
    scored = score_items(model, items, batch_tokens=batch_tokens, name=name, progress=True)
    epsilon = rescoring_difference(
        model, items, scored, seed=seed, stream=f"{name}.{sampling}.{part}", name=name
    )
    write_records(records_path, records_table(items, scored))
    config = {"sampling": sampling, "part": part, "parts": parts}
    facts = {
        "epsilon_nats": epsilon,
        "device": str(target),
        "dtype": "float32",
        "batch_tokens": batch_tokens,
        "seed": seed,
    }
    inputs = [message_path, draws_path, Path(store_folder) / "index.json"]
    write_json(sidecar_path, provenance(config, inputs, sha256=sha256_file(records_path), **facts))


def draw_items(message, store, draws_path, sampling, part=0, parts=1, name="message"):
    """Yield the items of the draws of one part, in draw order (see `tokenbounds.corpus.contexts.Item`)."""
    vocab_size = message.config["hypothesis"]["vocab_size"]
    if vocab_size != store.vocab_size:
        expected = f"the corpus' vocabulary of {store.vocab_size}"
        raise InputError(f"{name}: the model predicts {vocab_size} tokens; expected {expected}")
    rule = context_rule(message, sampling, name)
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
    """Join items and their scores to records (one row per scored token, in draw order), an Arrow table."""
    counts = [item.targets.size for item in items]
    columns = {
        "draw": np.repeat([item.draw for item in items], counts),
        "position": np.concatenate([item.positions for item in items]),
        "document": np.repeat([item.document for item in items], counts),
        "context_length": np.concatenate([item.contexts for item in items]),
        "log2_q": np.concatenate([scores[0] for scores in scored]),
        "rank": np.concatenate([scores[1] for scores in scored]).astype(np.int32),
        "entropy_bits": np.concatenate([scores[2] for scores in scored]),
    }
    if len(scored[0]) == 3:
        return pa.table(columns, schema=SCHEMA)
    columns["alpha"] = np.concatenate([scores[3] for scores in scored])
    return pa.table(columns, schema=SCHEMA.append(ALPHA))
