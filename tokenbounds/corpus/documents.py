"""Documents of a corpus: their roles, their division among shards, and the manifest that records both.

Every document is counted in m, held out for validation, or used to train the tokenizer: one of the three."""

import importlib.metadata
import itertools
import math

import numpy as np

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.readers import CountedFile, count_all
from tokenbounds.corpus.sources import SourceFile
from tokenbounds.corpus.store import require_keys
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, read_json, sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.randomness import generator

TRAIN, VALIDATION, TOKENIZER = 0, 1, 2
SPLITS = {"train": TRAIN, "val": VALIDATION}
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


def document_roles(corpus: Corpus, documents, seed, corpus_name):
    """Assign a role to every document: counted (0), validation (1), or tokenizer training (2).

    Documents that the tokenizer is trained on do not count towards m: a tokenizer that has seen the counted
    tokens would be part of the hypothesis, and its bits part of the message (docs/theory.md, section 2).
    ``ceil(fraction * documents)`` of them are drawn from the documents that are not held out, by the stream
    ``("tokenizer_sample", corpus_name)``.

    Returns
    -------
    ndarray of uint8, shape (documents,)
    """
    roles = np.zeros(documents, np.uint8)
    roles[split_documents(documents, corpus.split.val, corpus.split.seed)] = VALIDATION
    if corpus.tokenizer.train is not None:
        rest = np.flatnonzero(roles == TRAIN)
        sample = generator(seed, "tokenizer_sample", corpus_name).permutation(rest)
        roles[sample[: math.ceil(corpus.tokenizer.train.fraction * documents)]] = TOKENIZER
    return roles


def write_manifest(
    corpus: Corpus, seed, corpus_name, files: list[SourceFile], manifest_path, roles_path, processes=1
):
    """Count a corpus's documents, give each a role and each shard a range, and write both files.

    The manifest is ``documents.json``, the roles are ``roles.bin``. Documents are numbered from 0 over the
    files in order, those without text included: with
    ``empty_documents: skip`` such a document has a number and a role but contributes no token. Shard s of S
    holds the documents ``floor(s N / S)`` to ``floor((s + 1) N / S)``.

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
    roles = document_roles(corpus, documents, seed, corpus_name)
    held = {
        name: int((roles == role).sum())
        for name, role in (("train", TRAIN), ("val", VALIDATION), ("tokenizer", TOKENIZER))
    }
    if not held["train"]:
        other = f"{held['val']} are for validation and {held['tokenizer']} for the tokenizer"
        raise InputError(f"corpora.{corpus_name}: of {documents} documents {other}; none is left to count")
    with atomic_path(roles_path) as temporary:
        temporary.write_bytes(roles.tobytes())
    bounds = [documents * shard // corpus.shards for shard in range(corpus.shards + 1)]
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
            "shards": [list(pair) for pair in itertools.pairwise(bounds)],
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
        A key is missing, or the roles are not those that the manifest was written with.
    """
    manifest = read_json(manifest_path)
    require_keys(
        manifest_path,
        manifest,
        ("documents", "roles_sha256", "shards", "files", "provenance"),
        "manifest of documents",
    )
    if sha256_file(roles_path) != manifest["roles_sha256"]:
        raise InputError(
            f"{roles_path}: not the roles that {manifest_path} was written with (sha256 differs)"
        )
    files = []
    for entry in manifest["files"]:
        require_keys(manifest_path, entry, ("path", *_COUNTED), "manifest of documents")
        files.append(
            CountedFile(SourceFile(entry["path"], entry.get("package")), *(entry[key] for key in _COUNTED))
        )
    return manifest, files, np.fromfile(roles_path, np.uint8)
