"""Small token stores for tests."""

import hashlib
import itertools
import json

import numpy as np

from tokenbounds.corpus.indexing import build_index
from tokenbounds.corpus.store import TokenStore, token_dtype
from tokenbounds.io.files import write_json

EOT_ID, VOCAB = 0, 300


def write_split(folder, shards, vocab_size=VOCAB, eot_id=EOT_ID, split="train"):
    """Write shards given as lists of documents (ids without EOT); return the paths of their sidecars."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype, sidecars = token_dtype(vocab_size), []
    for number, documents in enumerate(shards):
        tokens = np.array([token for ids in documents for token in [*ids, eot_id]], dtype).tobytes()
        ends = np.cumsum([len(ids) + 1 for ids in documents], dtype="<u8").tobytes()
        (folder / f"{number:05d}.bin").write_bytes(tokens)
        (folder / f"{number:05d}.ends.bin").write_bytes(ends)
        sidecars.append(folder / f"{number:05d}.json")
        facts = {
            "split": split,
            "shard": number,
            "shards": len(shards),
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "eot_id": eot_id,
            **dict.fromkeys(("tokenizer_sha256", "manifest_sha256", "roles_sha256"), "0" * 64),
            "roles": {"train": 0, "val": 0, "tokenizer": 0} | {split: sum(map(len, shards))},
            "tokens": len(tokens) // dtype.itemsize,
            "documents": len(documents),
            "skipped_documents": [],
            "seen_documents": 0,
            "sha256": hashlib.sha256(tokens).hexdigest(),
            "ends_sha256": hashlib.sha256(ends).hexdigest(),
            "provenance": {"config": {}},
        }
        write_json(sidecars[-1], facts)
    return sidecars


def store_of(folder, shards, **more):
    """Write and index shards as `write_split` does; return the `TokenStore`."""
    build_index(write_split(folder, shards, **more), folder, context_length=4)
    return TokenStore(folder)


def write_store(folder, documents, vocab_size=50, eot_id=EOT_ID, shards=1, split="train"):
    """Write and index documents (ids without EOT), divided among shards in order; return the `TokenStore`."""
    bounds = [len(documents) * shard // shards for shard in range(shards + 1)]
    chosen = [documents[start:stop] for start, stop in itertools.pairwise(bounds)]
    return store_of(folder, chosen, vocab_size=vocab_size, eot_id=eot_id, split=split)


def write_index(folder, documents_tokens, shard_tokens):
    """Write an index without shards: enough to draw from; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(documents_tokens, dtype="<u8")
    (folder / "ends.bin").write_bytes(ends.tobytes())
    shards = [
        {"name": f"{number:05d}", "tokens": int(tokens), "documents": 0, "sha256": "0" * 64}
        for number, tokens in enumerate(shard_tokens)
    ]
    shards[0]["documents"] = len(ends)
    index = {
        "m_tokens": int(ends[-1]),
        "documents": len(ends),
        "split": "train",
        "shards": shards,
        "dtype": "uint16",
        "vocab_size": VOCAB,
        "eot_id": EOT_ID,
        **dict.fromkeys(("tokenizer_sha256", "manifest_sha256", "roles_sha256"), "0" * 64),
        "roles": {"train": len(ends), "val": 0, "tokenizer": 0},
        "skipped_documents": 0,
        "seen_documents": 0,
        "duplicate_documents": 0,
        "duplicate_documents_one_in": 1,
        "repeated_contexts": None,
        "cumulative_tokens": [0, *np.cumsum(shard_tokens).tolist()],
        "ends_sha256": hashlib.sha256(ends.tobytes()).hexdigest(),
        "tokens_sha256": "0" * 64,
        "provenance": {},
    }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def random_documents(rng, count, longest=40, vocab_size=50):
    """Make documents of 1 to `longest` random tokens, no EOT (id 0) inside."""
    return [rng.integers(1, vocab_size, size=rng.integers(1, longest + 1)).tolist() for _ in range(count)]
