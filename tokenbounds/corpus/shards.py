"""Shards: the documents of a corpus as files of token ids, tokenized in parallel.

A shard is three files per split (``train/`` and ``val/``):

==================  =========================================================================
file                content
==================  =========================================================================
{shard}.bin         token ids, little-endian uint16 or uint32, an EOT after each document
{shard}.ends.bin    position after each document's EOT within the shard, little-endian uint64
{shard}.json        counts, hashes, manifest, roles and tokenizer by hash, and provenance
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
from tokenbounds.corpus.documents import (
    SPLITS,
    TOKENIZER,
    TRAIN,
    manifest_digest,
    read_manifest,
    reading_of,
)
from tokenbounds.corpus.readers import read_range
from tokenbounds.corpus.store import token_dtype
from tokenbounds.corpus.tokenizer_folder import read_info, read_trained_on, text_digest, tokenizer_digest
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.corpus.workers import worker_pool
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, write_json
from tokenbounds.io.provenance import provenance

_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 512


class _Writer:
    """Files of one split of a shard: token ids and document ends, hashed while they are written."""

    def __init__(self, stack, folder, shard):
        self.stem = folder / f"{shard:05d}"
        self.tokens = self.documents = 0
        self.skipped = []  # numbers of its documents without text
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
            "skipped_documents": self.skipped,
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


class SeenDocuments:
    """Which documents are exact copies of those that a tokenizer was trained on.

    Parameters
    ----------
    tokenizer_dir : path
    tokenizer : TextTokenizer
        The tokenizer of that folder.

    Attributes
    ----------
    counts : dict of int to int
        Copies found by `count`, by role.
    """

    def __init__(self, tokenizer_dir, tokenizer):
        self._known, self._tokenizer = frozenset(read_trained_on(tokenizer_dir)), tokenizer
        self.counts = dict.fromkeys(SPLITS.values(), 0)

    def __contains__(self, text):
        """Check a text, or token ids in place of one; one without text is no copy of anything."""
        if not self._known or not len(text):
            return False
        if isinstance(text, np.ndarray):
            text = self._tokenizer.decode(text)
        return text_digest(text) in self._known

    def count(self, documents, roles):
        """Yield documents (number, place, text) as they are, and count copies by role in `counts`."""
        for number, place, text in documents:
            self.counts[roles[number]] += text in self
            yield number, place, text


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
        a counted one is an exact copy of a document that another corpus's tokenizer was trained on; the shard
        does not exist; or the documents were counted under other settings.
    """
    manifest, files, roles = read_manifest(manifest_path, roles_path)
    tokenizer = load_tokenizer(tokenizer_dir)
    if manifest["reading"] != (reading := reading_of(corpus)):
        key = next(key for key in reading if manifest["reading"][key] != reading[key])
        counted = f"documents were counted with {key} {manifest['reading'][key]}"
        raise InputError(f"{manifest_path}: {counted}, expected {reading[key]}; remove it")
    if not 0 <= shard < len(manifest["shards"]):
        raise InputError(
            f"{manifest_path}: shard {shard} does not exist, expected 0 to {len(manifest['shards']) - 1}"
        )
    source, (start, stop) = corpus.source, manifest["shards"][shard]
    if source.eot_id not in (None, tokenizer.eot_id):
        expected = f"{tokenizer.eot_id}, the tokenizer's id of '{tokenizer.eot}'"
        raise InputError(f"source.eot_id: {source.eot_id}; expected {expected}")
    all_documents = read_range(files, source.field, start, stop, source.extract, source.eot_id)
    seen = SeenDocuments(tokenizer_dir, tokenizer)
    documents = (document for document in all_documents if roles[document[0]] != TOKENIZER)
    documents = seen.count(documents, roles)
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
                else:
                    writers[roles[number]].skipped.append(number)
                first += length
            progress.update(len(batch))
        standing = read_info(tokenizer_dir)["standing"]
        if standing["kind"] == "taken" and (copies := seen.counts[TRAIN]):
            trained = f"the tokenizer of corpus '{standing['corpus']}' was trained on; expected none"
            raise InputError(
                f"{manifest_path}: {copies} counted documents of shard {shard} are ones that {trained}"
            )
    shared = {
        "shard": shard,
        "shards": len(manifest["shards"]),
        "dtype": token_dtype(tokenizer.vocab_size).name,
        "vocab_size": tokenizer.vocab_size,
        "eot_id": tokenizer.eot_id,
        "manifest_sha256": manifest_digest(manifest),
        "roles_sha256": manifest["roles_sha256"],
        "roles": manifest["roles"],
        "tokenizer_sha256": tokenizer_digest(tokenizer_dir),
    }
    inputs = [manifest_path, roles_path, Path(tokenizer_dir) / "info.json"]
    origin = provenance(corpus.model_dump(exclude_none=True), inputs, seed=manifest["provenance"].get("seed"))
    for split, role in SPLITS.items():
        writer = writers[role]
        write_json(
            writer.stem.with_suffix(".json"),
            {
                "split": split,
                **shared,
                **writer.facts(),
                "seen_documents": seen.counts[role],
                "provenance": origin,
            },
        )
