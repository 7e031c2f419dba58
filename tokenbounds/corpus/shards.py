"""Shards: the documents of a corpus as files of token ids, tokenized in parallel.

A shard is three files per split (``train/`` and ``val/``):

==================  =========================================================================
file                content
==================  =========================================================================
{shard}.bin         token ids, little-endian uint16 or uint32, an EOT after each document
{shard}.ends.bin    position after each document's EOT within the shard, little-endian uint64
{shard}.json        counts, hashes, tokenizer and provenance
==================  ========================================================================="""

import collections
import contextlib
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import SPLITS, TOKENIZER, read_manifest
from tokenbounds.corpus.readers import read_range
from tokenbounds.corpus.store import token_dtype
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.corpus.workers import worker_pool
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, read_json, write_json
from tokenbounds.io.provenance import provenance

_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 512


class _Writer:
    """Files of one split of a shard: token ids and document ends, hashed while they are written."""

    def __init__(self, stack, folder, shard):
        self.stem = folder / f"{shard:05d}"
        self.tokens = self.documents = 0
        self._files = []
        for suffix in (".bin", ".ends.bin"):
            temporary = stack.enter_context(atomic_path(self.stem.with_name(self.stem.name + suffix)))
            handle = stack.enter_context(temporary.open("wb", buffering=1 << 20))
            self._files.append((handle, hashlib.sha256()))

    def add(self, ids):
        self.tokens += len(ids)
        self.documents += 1
        for (handle, digest), data in zip(
            self._files, (ids.tobytes(), np.array(self.tokens, "<u8").tobytes()), strict=True
        ):
            handle.write(data)
            digest.update(data)

    def facts(self):
        bin_sha256, ends_sha256 = (digest.hexdigest() for _, digest in self._files)
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "sha256": bin_sha256,
            "ends_sha256": ends_sha256,
        }


_worker_tokenizer = None


def _start_worker(folder):
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_tokenizer = load_tokenizer(folder)


def _encode_in_worker(texts, places):
    return _encode(_worker_tokenizer, texts, places)


def _encode(tokenizer, texts, places):
    """Return (lengths, ids): each document's tokens with its EOT, joined; length 1 means a text is empty."""
    dtype, eot = token_dtype(tokenizer.vocab_size), np.array([tokenizer.eot_id])
    encoded = tokenizer.encode_batch(texts, places)
    return [len(ids) + 1 for ids in encoded], np.concatenate(
        [part.astype(dtype) for ids in encoded for part in (ids, eot)]
    )


def _batches(documents):
    """Group documents into lists of about a million characters.

    That bounds the memory of the batches in flight, however large or small the documents are."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document[2])
        if characters >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encoded_batches(batches, tokenizer, tokenizer_dir, processes):
    """Yield (batch, lengths, ids) of every batch, in order; at most two batches per process are in flight."""
    columns = ((batch, [text for _, _, text in batch], [place for _, place, _ in batch]) for batch in batches)
    if processes == 1:
        for batch, texts, places in columns:
            yield batch, *_encode(tokenizer, texts, places)
        return
    pool = worker_pool(processes, _start_worker, (str(tokenizer_dir),))
    waiting = collections.deque()
    try:
        for batch, texts, places in itertools.chain(columns, itertools.repeat((None, None, None))):
            if batch is not None:
                # The texts go with the task; only numbers and places are kept here.
                kept = [(number, place) for number, place, _ in batch]
                waiting.append((kept, pool.submit(_encode_in_worker, texts, places)))
            if waiting and (batch is None or len(waiting) >= 2 * processes):
                kept, future = waiting.popleft()
                yield kept, *future.result()
            elif batch is None:
                return
    finally:
        pool.shutdown(cancel_futures=True)


def tokenize_shard(corpus: Corpus, manifest_path, roles_path, tokenizer_dir, shard, out_dir, processes=1):
    """Tokenize one shard's documents into ``train/`` and ``val/`` of `out_dir`.

    Documents keep their order; those that the tokenizer was trained on are left out. The files do not depend
    on `processes`, and appear whole or not at all.

    Parameters
    ----------
    corpus : Corpus
        The corpus's section of the configuration.
    manifest_path, roles_path : path
        From `tokenbounds.corpus.documents.write_manifest`.
    tokenizer_dir : path
        From `tokenbounds.corpus.tokenizers.prepare_tokenizer`.
    shard : int
        Number of the shard.
    out_dir : path
        ``tokens/{corpus}``.
    processes : int
        Number of worker processes; 1 means the calling process. They are spawned: a script that calls this
        function needs ``if __name__ == "__main__":``.

    Raises
    ------
    InputError
        A document cannot be read, is empty (unless ``empty_documents: skip``), or is encoded with the EOT id;
        or the shard does not exist.
    """
    manifest, files, roles = read_manifest(manifest_path, roles_path)
    tokenizer = load_tokenizer(tokenizer_dir)
    if not 0 <= shard < len(manifest["shards"]):
        raise InputError(
            f"{manifest_path}: shard {shard} does not exist, expected 0 to {len(manifest['shards']) - 1}"
        )
    source, (start, stop) = corpus.source, manifest["shards"][shard]
    if source.eot_id not in (None, tokenizer.eot_id):
        expected = f"{tokenizer.eot_id}, the tokenizer's id of '{tokenizer.eot}'"
        raise InputError(f"source.eot_id: {source.eot_id}; expected {expected}")
    all_documents = read_range(files, source.field, start, stop, source.extract, source.eot_id)
    documents = (document for document in all_documents if roles[document[0]] != TOKENIZER)
    total = int((roles[start:stop] != TOKENIZER).sum())
    with contextlib.ExitStack() as stack:
        writers = {role: _Writer(stack, Path(out_dir) / split, shard) for split, role in SPLITS.items()}
        progress = stack.enter_context(
            tqdm(desc=f"tokenizing shard {shard}", total=total, unit="document", disable=None)
        )
        encoded = stack.enter_context(
            contextlib.closing(_encoded_batches(_batches(documents), tokenizer, tokenizer_dir, processes))
        )
        for batch, lengths, ids in encoded:
            first = 0
            for (number, place, *_), length in zip(batch, lengths, strict=True):
                if length > 1:
                    writers[roles[number]].add(ids[first : first + length])
                elif corpus.empty_documents == "error":
                    raise InputError(
                        f"{place}: a document without text; expected text, or empty_documents: skip"
                    )
                first += length
            progress.update(len(batch))
    info = Path(tokenizer_dir) / "info.json"
    shared = {
        "shard": shard,
        "shards": len(manifest["shards"]),
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "eot_id": tokenizer.eot_id,
        "tokenizer_sha256": read_json(info)["sha256"],
    }
    inputs = [manifest_path, roles_path, info]
    origin = provenance(corpus.model_dump(exclude_none=True), inputs, seed=manifest["provenance"]["seed"])
    for split, role in SPLITS.items():
        writer = writers[role]
        write_json(
            writer.stem.with_suffix(".json"),
            {"split": split, **shared, **writer.facts(), "provenance": origin},
        )
