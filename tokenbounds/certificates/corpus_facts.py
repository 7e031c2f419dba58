"""Facts about the corpus of a certificate: which text was counted, which tokenizer made its tokens and who
pays for it, and how far the text repeats itself (docs/theory.md, section 9)."""

import math
from pathlib import Path

from tokenbounds.corpus.documents import count_roles, manifest_digest, read_manifest
from tokenbounds.corpus.index_shape import check_index
from tokenbounds.corpus.repetition import MOST_TOKENS, duplicate_documents, repeated_contexts
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.tokenizer_folder import read_trained_on, tokenizer_digest
from tokenbounds.corpus.tokenizers import check_standing
from tokenbounds.errors import InputError
from tokenbounds.io.files import check_sha256, read_json

_INDEX_FACTS = (
    "manifest_sha256",
    "roles_sha256",
    "seen_documents",
    "duplicate_documents",
    "duplicate_documents_one_in",
    "repeated_contexts",
)


def corpus_facts(run, corpus):
    """Collect what a certificate says about a corpus and its tokenizer.

    Everything is checked against everything: the index against the manifest of documents, the roles and all
    files of the tokenizer, which are hashed again.

    Parameters
    ----------
    run : path
        Folder of the run.
    corpus : str
        Name of the corpus.

    Returns
    -------
    dict
        ``tokenizer`` (kind, EOT, hashes, ``standing``, ``bits`` of its files or 0, and what it ``assumes`` in
        words), ``documents_by_role``, ``documents_left_out``, ``manifest_sha256``, ``roles_sha256``,
        ``seen_documents`` (exact copies of documents that the tokenizer was trained on),
        ``duplicate_documents`` and ``repeated_contexts`` (`tokenbounds.corpus.repetition`).

    Raises
    ------
    InputError
        A file is missing or torn, or is not the one that the tokens were made with.
    """
    index, manifest, info = _checked(Path(run) / "tokens" / corpus)
    roles, standing = manifest["roles"], info["standing"]
    return {
        "tokenizer": {
            **{key: info[key] for key in ("kind", "sha256", "eot", "eot_id")},
            "files_sha256": index["tokenizer_sha256"],
            "standing": standing,
            "bits": 8 * standing.get("archive_bytes", 0),
            "assumes": assumption(info, roles),
        },
        "documents_by_role": roles,
        "documents_left_out": {"tokenizer": roles["tokenizer"], "validation": roles["val"]},
        **{key: index[key] for key in _INDEX_FACTS},
    }


def tokenizer_bits(facts):
    """Return the terms of the complexity that a corpus's tokenizer adds, in bits, itemised.

    A tokenizer that is paid adds C_T + 2 log2 C_T, C_T = 8 times the bytes of its files in one compressed
    archive; one that was trained on left-out documents, that the program defines, or that is assumed to be
    fixed before the corpus, adds nothing. `facts` are those of `corpus_facts`.
    """
    bits = facts["tokenizer"]["bits"]
    return {"tokenizer": bits, "tokenizer length": 2 * math.log2(bits)} if bits else {}


def assumption(info, roles):
    """Say in words what has to be assumed of a tokenizer; "nothing", and why, where it is nothing."""
    standing = info["standing"]
    if standing["kind"] == "assumed":
        return f"the tokenizer was fixed before the corpus: {standing['fixed_before']}"
    of_corpus = f"trained on documents of corpus '{standing.get('corpus')}'"
    return {
        "trained": f"nothing: trained on {roles['tokenizer']} documents that are left out of m",
        "taken": f"nothing: {of_corpus}, none of which is an exact copy of one counted here",
        "program": "nothing: its vocabulary is part of the program",
        "paid": "nothing: its files are part of the complexity",
    }[standing["kind"]]


def _checked(folder):
    """Read index, manifest and the tokenizer's information of a corpus, checked against each other."""
    index_path, manifest_path = folder / "train" / "index.json", folder / "documents.json"
    index = read_json(index_path)
    check_index(index_path, index)
    if index["split"] != "train":
        raise InputError(f"{index_path}: split {index['split']}, expected train")
    manifest, _, roles = read_manifest(manifest_path, folder / "roles.bin")
    tokenizer = folder / "tokenizer"
    info = check_standing(tokenizer)
    check_sha256(tokenizer / info["file"], info["sha256"])
    for what, key, found in (
        (manifest_path, "manifest_sha256", manifest_digest(manifest)),
        (folder / "roles.bin", "roles_sha256", manifest["roles_sha256"]),
        (tokenizer, "tokenizer_sha256", tokenizer_digest(tokenizer)),
    ):
        if index[key] != found:
            differ = (
                f"not what {index_path} was made with ({key} {found[:12]}..., expected {index[key][:12]}...)"
            )
            raise InputError(f"{what}: {differ}")
    for what, found, expected in (
        ("roles", count_roles(roles), index["roles"]),
        ("vocab_size", info["vocab_size"], index["vocab_size"]),
        ("eot_id", info["eot_id"], index["eot_id"]),
    ):
        if found != expected:
            raise InputError(f"{index_path}: {what} {expected}, but {found} in the files that it names")
    standing, sample = info["standing"]["kind"], manifest["drawing"]["tokenizer"]
    if (standing == "trained") != (sample is not None):
        left_out = f"documents are {'' if sample else 'not '}left out for a tokenizer"
        raise InputError(f"{manifest_path}: {left_out}, but the standing of the tokenizer is {standing}")
    if standing == "trained":
        if sample["corpus"] != folder.name:
            raise InputError(f"{manifest_path}: of corpus '{sample['corpus']:.40}', expected '{folder.name}'")
        if (count := len(read_trained_on(tokenizer))) != manifest["roles"]["tokenizer"]:
            stated = f"{manifest['roles']['tokenizer']} documents are left out for it"
            raise InputError(f"{tokenizer}: trained on {count} documents, but {stated} in {manifest_path}")
    if standing == "taken" and index["seen_documents"]:
        seen = f"{index['seen_documents']} counted documents are ones that the tokenizer was trained on"
        raise InputError(f"{index_path}: {seen}, expected none")
    return index, manifest, info


def repetition_in_words(corpus):
    """Say how far the corpus of a certificate, its section, repeats itself; one line."""
    copies, repeated = corpus["duplicate_documents"], corpus["repeated_contexts"]
    documents = "documents that are copies were not counted"
    if copies is not None:
        documents = f"{copies:,} of {corpus['documents']:,} documents are copies of earlier ones"
        if corpus["duplicate_documents_one_in"] > 1:
            documents += f" (in a sample of one in {corpus['duplicate_documents_one_in']})"
    if repeated is None:
        return f"{documents}; repeated contexts were not counted"
    length, again = repeated["context_length"], repeated["continued"] / max(1, repeated["repeated"])
    share = f"{repeated['share']:.1%} of the tokens follow {length} tokens that stood earlier"
    return f"{documents}; {share}, {again:.1%} of them as then"


def check_repetition(run, corpus):
    """Count duplicate documents and repeated contexts of a corpus again, from its tokens.

    Raises
    ------
    InputError
        The index says something else.
    """
    store = TokenStore(Path(run) / "tokens" / corpus / "train")
    shards, index = store.shards(), store.index
    found = dict(
        zip(("duplicate_documents", "duplicate_documents_one_in"), duplicate_documents(shards), strict=True)
    )
    if index["repeated_contexts"] is None and index["m_tokens"] <= MOST_TOKENS:
        expected = "how many tokens follow a context that stood earlier"
        raise InputError(f"{store.folder / 'index.json'}: repeated_contexts is null; expected {expected}")
    if index["repeated_contexts"] is not None:
        found["repeated_contexts"] = repeated_contexts(shards, index["repeated_contexts"]["context_length"])
    for key, value in found.items():
        if index[key] != value:
            raise InputError(f"{store.folder / 'index.json'}: {key} is {index[key]}, counted again {value}")
