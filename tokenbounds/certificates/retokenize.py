"""Tokens made again from the source files: what no hash of a run's own files can show.

Whoever makes a run can write any tokens and hash them. Here the source files are read again, the roles of
their documents drawn again, and documents tokenized again and compared with the shards, token by token."""

import dataclasses
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tokenbounds.certificates.checks import CONFIDENCE, Check
from tokenbounds.certificates.corpus_facts import check_repetition, corpus_facts
from tokenbounds.corpus.documents import TOKENIZER, TRAIN, document_roles, read_manifest
from tokenbounds.corpus.indexing import read_shard_sidecar
from tokenbounds.corpus.readers import count_documents, docstrings, read_documents
from tokenbounds.corpus.shards import SeenDocuments
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.tokenizer_folder import read_info, read_trained_on, text_digest
from tokenbounds.corpus.tokenizers import load_tokenizer, train_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file

_BATCH = 256


def retokenize(run, certificate, count):
    """Read a corpus's source files again and compare what follows from them with the run's files.

    Parameters
    ----------
    run : path
        Folder of the run.
    certificate : dict
        The certificate; its corpus is checked.
    count : int or "all"
        Number of documents to tokenize again, drawn here and now without a seed, or all of them: then also
        the order and number of documents and tokens, duplicates and repeated contexts, and a tokenizer that
        was trained in the run is trained again.

    Yields
    ------
    Check
        ``index``, ``sources``, ``roles``, ``tokens``; of all documents also ``repetition`` and ``tokenizer``.
        After sources or roles that do not hold, nothing can be compared.
    """
    corpus = certificate["corpus"]["name"]
    if not isinstance(corpus, str) or Path(corpus).name != corpus or corpus in ("", ".", ".."):
        raise InputError(f"corpus {corpus!r:.60}: expected the name of a folder in {run}/tokens")
    source = _Source(Path(run) / "tokens" / corpus)
    for name, check in (
        ("index", lambda: _check_index(run, corpus)),
        ("sources", source.check_files),
        ("roles", source.check_roles),
    ):
        outcome = _outcome(name, check)
        yield outcome
        if not outcome.held:
            return
    yield _outcome("tokens", lambda: _check_tokens(source, count))
    if count == "all":
        yield _outcome("repetition", lambda: _check_repetition(run, corpus))
        yield _outcome("tokenizer", lambda: _check_tokenizer(source))


def _outcome(name, check):
    """Run a check that returns its detail, or raises an `InputError` where it does not hold."""
    try:
        return Check(name, True, check())
    except InputError as error:
        return Check(name, False, str(error))


def _check_index(run, corpus):
    facts = corpus_facts(run, corpus)
    hashes = f"documents {facts['manifest_sha256'][:16]}, roles {facts['roles_sha256'][:16]}"
    return f"made of {hashes}, tokenizer {facts['tokenizer']['files_sha256'][:16]}, as the files are now"


def _check_repetition(run, corpus):
    check_repetition(run, corpus)
    return "duplicate documents and repeated contexts are as the index counts them"


class _Source:
    """The source files of a corpus, as its manifest lists them.

    Attributes
    ----------
    folder : Path
        ``tokens/{corpus}`` of the run.
    """

    def __init__(self, folder):
        self.folder = folder

    def open(self):
        """Read the manifest; return (manifest, files, roles) as `read_manifest` does, the files as found."""
        manifest, files, roles = read_manifest(self.folder / "documents.json", self.folder / "roles.bin")
        return manifest, [counted._replace(file=self._found(counted.file)) for counted in files], roles

    def _found(self, file):
        """Return a source file where it is now: one that the run made is looked for in the run as well."""
        made = self.folder / Path(file.path).name
        if file.package is None and not Path(file.path).is_file() and made.is_file():
            return dataclasses.replace(file, path=str(made))
        return file

    def check_files(self):
        """Check size, hash and number of documents of every source file."""
        manifest, files, _ = self.open()
        reading = manifest["reading"]
        for counted in tqdm(files, "reading sources", unit="file", disable=None):
            path = counted.file.location
            if not path.is_file():
                raise InputError(f"{counted.file.path}: the source file is not there (or no file)")
            # Only what has the stated size and hash is parsed.
            # Special files, as below /proc, have a size of 0 and yet do not end.
            special = path.stat().st_size == 0 and counted.bytes == 0 and path.open("rb").read(1)
            if special or counted.file.bytes() != counted.bytes or sha256_file(path) != counted.sha256:
                raise InputError(f"{counted.file.path}: not the file whose documents were counted")
            found = count_documents(counted.file, reading["field"], reading["eot_id"])
            if found != counted.documents:
                raise InputError(f"{counted.file.path}: {found} documents, {counted.documents} are stated")
        total = sum(counted.bytes for counted in files)
        return f"{len(files)} files of {total:,} bytes hold the {manifest['documents']:,} documents stated"

    def check_roles(self):
        """Draw the roles again, and check that exactly the documents to count are in the index."""
        manifest, _, roles = self.open()
        again = document_roles(manifest["drawing"], manifest["documents"])
        if wrong := int((roles != again).sum()):
            at = int(np.argmax(roles != again))
            first = f"the first is {at}, role {roles[at]} in place of {again[at]}"
            raise InputError(f"{self.folder / 'roles.bin'}: {wrong} documents have another role; {first}")
        counts = manifest["roles"]
        left_out = f"{counts['val']:,} validation and {counts['tokenizer']:,} tokenizer documents"
        return f"drawn again from the seeds stated, {left_out} are left out of {manifest['documents']:,}"

    def texts(self, numbers):
        """Yield (number, place, text or ids) of chosen documents, as the corpus takes them.

        Parameters
        ----------
        numbers : ndarray of int64
            Document numbers in increasing order.
        """
        manifest, files, _ = self.open()
        reading, first = manifest["reading"], 0
        only_docstrings = reading["extract"] == "docstrings"
        for counted in files:
            start, stop = np.searchsorted(numbers, [first, first + counted.documents])
            wanted = numbers[start:stop] - first
            if wanted.size:
                begin, taken = int(wanted[0]), 0
                documents = read_documents(
                    counted.file, reading["field"], begin, int(wanted[-1]) + 1, reading["eot_id"]
                )
                for number, (place, text) in enumerate(documents, begin):
                    if number == wanted[taken]:
                        yield first + number, place, docstrings(text) if only_docstrings else text
                        taken += 1
                if taken != wanted.size:
                    raise InputError(f"{counted.file.path}: ends before document {wanted[taken]}")
            first += counted.documents


def _skipped(folder, index, counted):
    """Return the numbers of counted documents that are said to have no text, in order, from the shards."""
    if not index["skipped_documents"]:
        return np.empty(0, np.int64)
    paths = [folder / "train" / f"{shard['name']}.json" for shard in index["shards"]]
    listed = [number for path in paths for number in read_shard_sidecar(path)["skipped_documents"]]
    numbers = np.unique(np.array(listed, np.int64))
    if not len(numbers) == len(listed) == index["skipped_documents"] or not np.isin(numbers, counted).all():
        stated = f"its index states {index['skipped_documents']}"
        raise InputError(f"{folder / 'train'}: {len(numbers)} counted documents without text, {stated}")
    return numbers


def _check_tokens(source, count):
    """Tokenize documents again and compare them with the shards.

    All documents with the role of counted ones are drawn from, those without text too: these must have none.
    """
    _, _, roles = source.open()
    store = TokenStore(source.folder / "train")
    tokenizer = load_tokenizer(source.folder / "tokenizer")
    taken = read_info(source.folder / "tokenizer")["standing"]["kind"] == "taken"
    seen, copies = SeenDocuments(source.folder / "tokenizer", tokenizer), 0
    counted = np.flatnonzero(roles == TRAIN)
    skipped = _skipped(source.folder, store.index, counted)
    stored = np.setdiff1d(counted, skipped, assume_unique=True)  # document d of the store is stored[d]
    if len(stored) != store.documents:
        raise InputError(f"{store.folder}: {store.documents} documents, expected {len(stored)}")
    everything = count == "all" or count >= len(counted)
    chosen = counted
    if not everything:
        # Not a seeded sample: whoever made the tokens must not know which documents are looked at.
        chosen = np.sort(np.random.default_rng().choice(counted, count, replace=False))
    tokens = 0
    progress = tqdm(source.texts(chosen), "tokenizing again", len(chosen), unit="document", disable=None)
    for batch in _batches(progress):
        for document, ids in _encoded(tokenizer, batch):
            copies += document[2] in seen
            tokens += _compare(store, stored, skipped, document, ids)
    if taken and copies:
        raise InputError(
            f"{copies} counted documents are ones that the tokenizer was trained on, expected none"
        )
    if everything:
        if tokens != store.m:
            raise InputError(f"{store.folder}: {store.m} tokens, but its documents have {tokens}")
        if copies != store.index["seen_documents"]:
            stated = f"{store.index['seen_documents']} are stated"
            raise InputError(f"{store.folder}: {copies} copies of the tokenizer's documents, {stated}")
        return f"all {len(chosen):,} documents, {tokens:,} tokens, are those of the source, in order"
    most = 1 - (1 - CONFIDENCE) ** (1 / len(chosen))
    excluded = f"at most {100 * most:.2g}% of the documents differ ({CONFIDENCE:.0%})"
    return f"{len(chosen):,} random documents, {tokens:,} tokens, are those of the source: {excluded}"


def _batches(documents):
    batch = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _encoded(tokenizer, batch):
    """Return (document, ids) pairs of a batch of documents (number, place, text)."""
    ids = tokenizer.encode_batch([text for *_, text in batch], [place for _, place, _ in batch])
    return zip(batch, ids, strict=True)


def _compare(store, stored, skipped, document, ids):
    """Compare a document with the store; return its number of tokens there, EOT included."""
    number, place, _ = document
    at = int(np.searchsorted(skipped, number))
    if at < len(skipped) and skipped[at] == number:
        if len(ids):
            raise InputError(f"{place}: left out as a document without text, but it has {len(ids)} tokens")
        return 0
    if not len(ids):
        raise InputError(f"{place}: a document without text, but it is counted")
    at = int(np.searchsorted(stored, number))
    start, stop = int(store.start_of(np.array(at))), int(store.ends[at])
    found = store.tokens(start, stop)
    if stop - start != len(ids) + 1:
        size = f"{stop - start} tokens in {store.folder}"
        raise InputError(f"{place}: document {at} has {size}, but {len(ids) + 1} in its source")
    expected = np.append(ids, store.eot_id)
    if (found != expected).any():
        first = int(np.argmax(found != expected))
        differ = f"token {start + first} is {found[first]} in {store.folder}"
        raise InputError(f"{place}: {differ}, but {expected[first]} in its source")
    return stop - start


def _check_tokenizer(source):
    """Train a tokenizer that was trained in the run again, from the documents that are left out for it."""
    folder = source.folder / "tokenizer"
    info = read_info(folder)
    standing = info["standing"]["kind"]
    if standing == "taken":
        other = _Source(source.folder.parent / Path(info["standing"]["corpus"]).name)
        if not (other.folder / "documents.json").is_file():
            raise InputError(f"{other.folder}: not there, but the tokenizer was trained on its documents")
        other.check_files()
        other.check_roles()
        _, _, roles = other.open()
        if read_info(other.folder / "tokenizer")["kind"] != "train":
            raise InputError(f"{other.folder / 'tokenizer'}: was not trained, expected one that was")
    elif standing == "trained":
        other = source
        _, _, roles = source.open()
    else:
        return f"not trained in the run ({standing}): nothing to train again"
    digests = []

    def documents():
        for _, _, text in other.texts(np.flatnonzero(roles == TOKENIZER)):
            digests.append(text_digest(text))
            yield text

    again = train_tokenizer(documents(), info["vocab_size"], info["eot"]).to_str(pretty=True)
    if sorted(digests) != read_trained_on(folder):
        raise InputError(f"{folder}: not trained on the {len(digests)} documents that are left out for it")
    if again.encode() != (folder / info["file"]).read_bytes():
        raise InputError(f"{folder / info['file']}: not what training on {len(digests)} documents gives")
    return f"training on the {len(digests):,} documents that are left out for it gives the same bytes"
