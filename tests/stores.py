"""Small token stores for tests."""

import numpy as np

from tokenbounds.corpus import TokenStore, build_index
from tokenbounds.files import sha256_file, write_json


def write_store(folder, documents, vocab_size=50, eot_id=0, shards=1, split="train"):
    """Write token shards and an index; `documents` are lists of ids without EOT, and shards take them in turn, in order.

    Returns the `TokenStore`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    sidecars = []
    for shard in range(shards):
        chosen = documents[len(documents) * shard // shards : len(documents) * (shard + 1) // shards]
        path = folder / f"{shard:05d}.bin"
        np.array([token for document in chosen for token in [*document, eot_id]], dtype).tofile(path)
        ends = folder / f"{shard:05d}.ends.bin"
        np.cumsum([len(document) + 1 for document in chosen], dtype=np.int64).astype("<u8").tofile(ends)
        sidecars.append(path.with_suffix(".json"))
        facts = {
            "split": split,
            "shard": shard,
            "shards": shards,
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "eot_id": eot_id,
            "tokenizer_sha256": "0" * 64,
            "tokens": sum(len(document) + 1 for document in chosen),
            "documents": len(chosen),
            "sha256": sha256_file(path),
            "ends_sha256": sha256_file(ends),
            "provenance": {"config": {}},
        }
        write_json(sidecars[-1], facts)
    build_index(sidecars, folder)
    return TokenStore(folder)


def random_documents(rng, count, longest=40, vocab_size=50):
    """Documents of 1 to `longest` random tokens, no EOT (id 0) inside."""
    return [rng.integers(1, vocab_size, size=rng.integers(1, longest + 1)).tolist() for _ in range(count)]
