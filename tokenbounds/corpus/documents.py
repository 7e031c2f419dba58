"""Documents of a corpus: their roles, their division among shards, and the manifest that records both.

Every document is counted in m, held out for validation, or used to train the tokenizer: one of the three."""

import hashlib
import importlib.metadata
import itertools
import math
from pathlib import Path

import numpy as np

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.index_shape import is_count, is_roles, is_sha256
from tokenbounds.corpus.readers import CountedFile, count_all
from tokenbounds.corpus.sources import SourceFile
from tokenbounds.corpus.store import require_keys
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, canonical_json, file_size, read_json, sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.randomness import generator

TRAIN, VALIDATION, TOKENIZER = 0, 1, 2
SPLITS = {"train": TRAIN, "val": VALIDATION}
ROLES = {"train": TRAIN, "val": VALIDATION, "tokenizer": TOKENIZER}
_MOST_DOCUMENTS, _BLOCK = 1 << 30, 1 << 24  # roles are a byte each, read whole
_COUNTED = ("bytes", "documents", "sha256")  # of a CountedFile, in its order


def split_documents(documents, fraction, seed):
    """Choose the validation documents.

    The same documents as ``train_test_split(test_size=fraction, seed=seed, shuffle=True)`` of Hugging Face
    datasets takes for its test split: the first ``ceil(fraction * documents)`` entries of the permutation of
    NumPy's default generator. OpenWebText's published split is fraction .0005, seed 2357.

    Returns
    -------
    ndarray of int64, shape (ceil(fraction * documents),), in the permutation's order
    """
    if fraction == 0:
        return np.empty(0, np.int64)
    return np.random.default_rng(seed).permutation(documents)[: math.ceil(fraction * documents)]


def reading_of(corpus: Corpus):
    """Return all else that decides the text of a corpus's documents, given its files, as plain JSON data."""
    source = corpus.source
    return {
        "field": source.field,
        "eot_id": source.eot_id,
        "extract": source.extract,
        "empty_documents": corpus.empty_documents,
    }


def drawing_of(corpus: Corpus, seed, corpus_name):
    """Return all that decides the roles of documents, given their number, as plain JSON data."""
    train = corpus.tokenizer.train
    sample = {"fraction": train.fraction, "seed": seed, "corpus": corpus_name} if train else None
    return {"val": corpus.split.val, "seed": corpus.split.seed, "tokenizer": sample}


def document_roles(drawing, documents):
    """Assign a role to every document: counted (0), validation (1), or tokenizer training (2).

    Documents that the tokenizer is trained on do not count towards m: a tokenizer that has seen the counted
    tokens would be part of the hypothesis, and its bits part of the message (docs/theory.md, section 2).
    ``ceil(fraction * documents)`` of them are drawn from the documents that are not held out, by the stream
    ``("tokenizer_sample", corpus)``.

    Parameters
    ----------
    drawing : dict
        From `drawing_of`: ``val`` and ``seed`` of the split, and ``tokenizer``: None, or ``fraction``,
        ``seed`` and ``corpus`` of the sample.
    documents : int

    Returns
    -------
    ndarray of uint8, shape (documents,)
    """
    roles = np.zeros(documents, np.uint8)
    roles[split_documents(documents, drawing["val"], drawing["seed"])] = VALIDATION
    if (sample := drawing["tokenizer"]) is not None:
        rest = np.flatnonzero(roles == TRAIN)
        order = generator(sample["seed"], "tokenizer_sample", sample["corpus"]).permutation(rest)
        roles[order[: math.ceil(sample["fraction"] * documents)]] = TOKENIZER
    return roles


def count_roles(roles):
    """Count the documents of each role, by name."""
    blocks = [roles[first : first + _BLOCK] for first in range(0, len(roles), _BLOCK)]
    return {name: sum(int((block == role).sum()) for block in blocks) for name, role in ROLES.items()}


def shard_ranges(documents, shards):
    """Divide documents among shards: shard s holds floor(s N / S) up to floor((s + 1) N / S)."""
    bounds = [documents * shard // shards for shard in range(shards + 1)]
    return [list(pair) for pair in itertools.pairwise(bounds)]


def manifest_digest(manifest):
    """Hash the content of a manifest of documents.

    SHA-256 of its canonical JSON without the provenance, and without the folders of files that belong to no
    package: where a file lies changes no document, its name (the format) and bytes do."""
    content = {key: value for key, value in manifest.items() if key != "provenance"}
    content["files"] = [
        entry if "package" in entry else entry | {"path": Path(entry["path"]).name}
        for entry in manifest["files"]
    ]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def write_manifest(
    corpus: Corpus, seed, corpus_name, files: list[SourceFile], manifest_path, roles_path, processes=1
):
    """Count a corpus's documents, give each a role and each shard a range, and write both files.

    The manifest is ``documents.json``, the roles are ``roles.bin``. Documents are numbered from 0 over the
    files in order, those without text included: with ``empty_documents: skip`` such a document has a number
    and a role but contributes no token. The manifest says how its files are read and how roles were drawn, so
    that both can be done again from it (`tokenbounds.certificates.retokenize`).

    Parameters
    ----------
    corpus : Corpus
        The corpus's section of the configuration.
    seed : int
        The run's seed (the validation split has its own).
    corpus_name : str
        The corpus's key in the configuration: part of the stream's name.
    files : list of SourceFile
        From `tokenbounds.corpus.sources.list_files`.
    manifest_path, roles_path : path
        Files to write; roles are one uint8 per document.
    processes : int
        Number of processes that count.

    Raises
    ------
    InputError
        No documents, or none left to count.
    """
    counted = count_all(files, corpus.source.field, processes, corpus.source.eot_id)
    documents = sum(entry.documents for entry in counted)
    if not documents:
        searched = f"{len(files)} files ({files[0].path}, ...)"
        raise InputError(f"corpora.{corpus_name}: no documents in {searched}; a corpus cannot be empty")
    drawing = drawing_of(corpus, seed, corpus_name)
    roles = document_roles(drawing, documents)
    held = count_roles(roles)
    if not held["train"]:
        other = f"{held['val']} are for validation and {held['tokenizer']} for the tokenizer"
        raise InputError(f"corpora.{corpus_name}: of {documents} documents {other}; none is left to count")
    with atomic_path(roles_path) as temporary:
        temporary.write_bytes(roles.tobytes())
    config = corpus.model_dump(include={"source", "split", "shards"})
    if corpus.tokenizer.train is not None:
        config["tokenizer"] = corpus.tokenizer.model_dump(exclude_none=True)
    packages = {
        package: importlib.metadata.version(package)
        for package in dict.fromkeys(file.package for file in files)
        if package
    }
    write_json(
        manifest_path,
        {
            "documents": documents,
            "roles": held,
            "roles_sha256": sha256_file(roles_path),
            "shards": shard_ranges(documents, corpus.shards),
            "reading": reading_of(corpus),
            "drawing": drawing,
            # The sha256 is there so that an edit that changes no size and no count changes the manifest too,
            # and makes stale whatever depends on it.
            "files": [
                {"path": entry.file.path, **({"package": entry.file.package} if entry.file.package else {})}
                | {key: getattr(entry, key) for key in _COUNTED}
                for entry in counted
            ],
            "provenance": provenance(
                config, seed=seed, corpus=corpus_name, **({"packages": packages} if packages else {})
            ),
        },
    )


def read_manifest(manifest_path, roles_path):
    """Read and check the two files of `write_manifest`.

    Returns
    -------
    manifest : dict
    files : list of CountedFile
    roles : ndarray of uint8, shape (documents,)

    Raises
    ------
    InputError
        A key is missing or not what it should be, the counts do not add up, or the roles are not those that
        the manifest was written with.
    """
    manifest = read_json(manifest_path)
    keys = ("documents", "roles", "roles_sha256", "shards", "files", "reading", "drawing", "provenance")
    require_keys(manifest_path, manifest, keys, "manifest of documents")
    for key in keys:
        if not _WELL_FORMED[key](manifest[key]):
            found = canonical_json(manifest[key])
            raise InputError(f"{manifest_path}: not a manifest of documents ({key} is {found:.60})")
    files = []
    for entry in manifest["files"]:
        require_keys(manifest_path, entry, ("path", *_COUNTED), "manifest of documents")
        if not _is_counted(entry):
            raise InputError(
                f"{manifest_path}: not a manifest of documents (a file is {canonical_json(entry):.60})"
            )
        files.append(
            CountedFile(SourceFile(entry["path"], entry.get("package")), *(entry[key] for key in _COUNTED))
        )
    seen = set()
    for counted in files:
        if (name := (counted.file.package, counted.file.path)) in seen:
            raise InputError(f"{manifest_path}: {counted.file.path} is listed twice; expected each file once")
        seen.add(name)
    documents = manifest["documents"]
    for what, counted in (
        ("files", sum(file.documents for file in files)),
        ("roles", sum(manifest["roles"].values())),
    ):
        if counted != documents:
            raise InputError(f"{manifest_path}: {counted} documents in its {what}, expected {documents}")
    if manifest["shards"] != shard_ranges(documents, len(manifest["shards"])):
        raise InputError(f"{manifest_path}: its shards do not divide {documents} documents evenly, in order")
    if documents > _MOST_DOCUMENTS or (size := file_size(roles_path)) != documents:
        found = f"more than {_MOST_DOCUMENTS}" if documents > _MOST_DOCUMENTS else f"{size} bytes"
        raise InputError(f"{roles_path}: {found}; expected a byte for each of {documents} documents")
    if sha256_file(roles_path) != manifest["roles_sha256"]:
        raise InputError(
            f"{roles_path}: not the roles that {manifest_path} was written with (sha256 differs)"
        )
    roles = np.fromfile(roles_path, np.uint8)
    if len(roles) != documents or count_roles(roles) != manifest["roles"]:
        counts = ", ".join(f"{count} {name}" for name, count in count_roles(roles).items())
        raise InputError(
            f"{roles_path}: {len(roles)} documents ({counts}), not as {manifest_path} counts them"
        )
    return manifest, files, roles


def _is_fraction(value):
    return type(value) in (int, float) and 0 <= value < 1


def _is_reading(value):
    if not isinstance(value, dict) or value.keys() != {"field", "eot_id", "extract", "empty_documents"}:
        return False
    field, eot_id = value["field"], value["eot_id"]
    return (
        (isinstance(field, str) or (isinstance(field, list) and all(isinstance(name, str) for name in field)))
        and (eot_id is None or is_count(eot_id))
        and value["extract"] in ("all", "docstrings")
        and value["empty_documents"] in ("error", "skip")
    )


def _is_drawing(value):
    if not isinstance(value, dict) or value.keys() != {"val", "seed", "tokenizer"}:
        return False
    sample = value["tokenizer"]
    return (
        _is_fraction(value["val"])
        and is_count(value["seed"])
        and (
            sample is None
            or (
                isinstance(sample, dict)
                and sample.keys() == {"fraction", "seed", "corpus"}
                and _is_fraction(sample["fraction"])
                and is_count(sample["seed"])
                and isinstance(sample["corpus"], str)
            )
        )
    )


def _is_counted(entry):
    return (
        isinstance(entry["path"], str)
        and isinstance(entry.get("package", ""), str)
        and entry.keys() <= {"path", "package", *_COUNTED}
        and is_count(entry["bytes"])
        and is_count(entry["documents"])
        and is_sha256(entry["sha256"])
    )


_WELL_FORMED = {
    "documents": is_count,
    "roles": is_roles,
    "roles_sha256": is_sha256,
    "shards": lambda value: isinstance(value, list) and bool(value),
    "files": lambda value: isinstance(value, list) and bool(value),
    "reading": _is_reading,
    "drawing": _is_drawing,
    "provenance": lambda value: isinstance(value, dict),
}
