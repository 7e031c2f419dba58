"""One scoring job: the records of one part of a message's draws."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.io.files import sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.scoring.draws import draw_items, message_draws
from tokenbounds.scoring.records import ALPHA, SCHEMA, write_records
from tokenbounds.scoring.reproducibility import reproducibility
from tokenbounds.scoring.score import score_items


def score_part(
    message_path,
    store_folder,
    records_path,
    sidecar_path,
    *,
    name,
    context,
    n,
    beacon,
    part,
    parts,
    seed,
    device,
):
    """Score the draws of one part and write their records.

    Parameters
    ----------
    message_path : path
        The coded model; the model to score is decoded from it, and the draws are derived from it.
    store_folder : path
        Folder of the token index.
    records_path, sidecar_path : path
        Outputs: parquet; and json with its sha256, those of the inputs, and how far scores changed when a
        sample was scored again beside other inputs (``epsilon_nats``, ``entropy_epsilon_bits``: 0 where all
        were the same bits).
    name : str
        The model's name in errors and on the progress bar.
    context : dict
        Scheme: ``mode``, ``context_length`` and, for windows, ``window``; one of the message's.
    n : int
        Number of draws of all parts.
    beacon : str
        See `tokenbounds.corpus.sampling.draw_key`.
    part, parts : int
        Number of this part, from 0, and number of parts.
    seed : int
        The run's seed (stream "rescore").
    device : str
        torch device, or "auto".
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    arithmetic, store = message.config["contexts"]["arithmetic"], TokenStore(store_folder)
    draws, key = message_draws(message_path, store, context, n, beacon)
    items = list(draw_items(message, store, draws, context, part=part, parts=parts, name=str(message_path)))
    scored = score_items(model, items, arithmetic=arithmetic, name=name, progress=True)
    scheme = {**context, "n": n, "beacon": beacon}
    changes = reproducibility(
        model, items, scored, arithmetic=arithmetic, seed=seed, stream=f"{key.hex()}.{part}", name=name
    )
    write_records(records_path, records_table(items, scored))
    facts = {
        "epsilon_nats": changes.epsilon_nats,
        "entropy_epsilon_bits": changes.entropy_epsilon_bits,
        "device": str(target),
        "dtype": arithmetic["dtype"],
        "seed": seed,
    }
    config = {"sampling": scheme, "part": part, "parts": parts}
    inputs = [message_path, Path(store_folder) / "index.json"]
    write_json(sidecar_path, provenance(config, inputs, sha256=sha256_file(records_path), **facts))


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
