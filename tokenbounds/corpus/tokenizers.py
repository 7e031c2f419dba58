"""Preparation of tokenizers: from a given file, or trained on documents of the corpus.

A prepared tokenizer is a folder (`tokenbounds.corpus.tokenizer_folder`)."""

import re
import shutil
from pathlib import Path

import tokenizers

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import TOKENIZER, read_manifest
from tokenbounds.corpus.readers import read_range
from tokenbounds.corpus.synthetic.vocabularies import is_of_the_program
from tokenbounds.corpus.text_tokenizers import TextTokenizer, open_tokenizer
from tokenbounds.corpus.tokenizer_folder import (
    FREE,
    INFO,
    TRAINED_ON,
    archive_bytes,
    read_info,
    text_digest,
    write_trained_on,
)
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_folder, check_sha256, sha256_file, write_json
from tokenbounds.io.gguf import read_facts, read_tokenizer
from tokenbounds.io.provenance import provenance

DEFAULT_EOT = "<|endoftext|>"
# Ids of a text by the published GPT-2 tokenizer, which a wrong or half-read vocabulary would not give.
_GPT2_TEXT, _GPT2_IDS = "Hello, my dog is cute", [15496, 11, 616, 3290, 318, 13779]


def _gpt2_tokenizer(folder):
    folder = Path(folder)
    for name in ("encoder.json", "vocab.bpe"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; expected encoder.json and vocab.bpe of GPT-2")
    try:
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
        )
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"{folder}: encoder.json and vocab.bpe do not fit together ({' '.join(str(error).split())})"
        ) from None
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    ids = tokenizer.encode(_GPT2_TEXT).ids
    if ids != _GPT2_IDS:
        raise InputError(
            f"{folder}: not GPT-2's vocabulary: '{_GPT2_TEXT}' gives {ids}, expected {_GPT2_IDS}"
        )
    return tokenizer


def listed_tokenizer(tokens) -> tokenizers.Tokenizer:
    """Make a tokenizer of these tokens only: a token's id is its place in the list.

    Text is cut from left to right; of several tokens that fit, the longest is taken."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: place for place, token in enumerate(tokens)})
    )
    longest_first = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(longest_first), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    return tokenizer


def train_tokenizer(texts, vocab_size, eot) -> tokenizers.Tokenizer:
    """Train a byte-level BPE on `texts`.

    Every text can be encoded: all 256 bytes are in the vocabulary. Equal texts in equal order give an equal
    tokenizer. If the texts hold too few pairs to merge, the vocabulary is smaller than requested.

    Parameters
    ----------
    texts : iterable of str
    vocab_size : int
        Number of ids, EOT included.
    eot : str
        End-of-text token, a special token with id 0.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[eot], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def training_documents(corpus: Corpus, manifest_path, roles_path):
    """Yield the texts of the documents that the corpus's tokenizer is trained on, in order."""
    manifest, files, roles = read_manifest(manifest_path, roles_path)
    for number, _, text in read_range(
        files, corpus.source.field, 0, manifest["documents"], corpus.source.extract
    ):
        if roles[number] == TOKENIZER:
            yield text


def prepare_tokenizer(corpus: Corpus, folder, *, documents=None, hub_files=None, other=None, gguf=None):
    """Write the folder of a corpus's tokenizer (`tokenbounds.corpus.tokenizer_folder`).

    Parameters
    ----------
    corpus : Corpus
        The corpus's section of the configuration.
    folder : path
        ``tokens/{corpus}/tokenizer``, replaced as a whole.
    documents : iterable of str, optional
        Texts to train on, for ``tokenizer.train``: `training_documents`.
    hub_files : list of dict, optional
        Downloaded files, for ``tokenizer.hub``: the list that `tokenbounds.io.hub.download` returned.
    other : path, optional
        Folder of the other corpus's tokenizer, for ``tokenizer.corpus``.
    gguf : path, optional
        The GGUF file, for ``tokenizer.model``.

    Raises
    ------
    InputError
        A missing or unreadable file, a vocabulary that is not GPT-2's, an EOT that is not in the vocabulary,
        or a tokenizer with nothing to assume that is said to be assumed.
    """
    config = corpus.tokenizer
    kind, eot = config.kind, corpus.eot or DEFAULT_EOT
    with atomic_folder(folder) as temporary:
        if kind == "train":
            if documents is None:
                raise ValueError("tokenizer.train needs documents to train on")
            source, name, digests = None, "tokenizer.json", []
            texts = (digests.append(text_digest(text)) or text for text in documents)
            train_tokenizer(texts, config.train.vocab_size, eot).save(str(temporary / name))
            write_trained_on(temporary, digests)
        elif kind == "gpt2":
            source, name = None, "tokenizer.json"
            _gpt2_tokenizer(config.gpt2).save(str(temporary / name))
        elif kind == "vocabulary":
            source, name = None, "tokenizer.json"
            listed_tokenizer(config.vocabulary).save(str(temporary / name))
        elif kind == "model":
            if gguf is None:
                raise ValueError("tokenizer.model needs the GGUF file of the model")
            source, name, facts = None, "tokenizer.json", read_facts(gguf)
            eot = corpus.eot or _eot_of(gguf, facts)
            read_tokenizer(gguf, facts).save(str(temporary / name))
        elif kind == "hub":
            if hub_files is None:
                raise ValueError(
                    "tokenizer.hub needs hub_files, the list that tokenbounds.io.hub.download returned"
                )
            paths = {entry["name"]: entry["path"] for entry in hub_files}
            name = next((name for name in ("tokenizer.json", "tokenizer.model") if name in paths), None)
            if name is None:
                names = ", ".join(sorted(paths))
                raise InputError(f"{config.hub}: found {names}; expected tokenizer.json or tokenizer.model")
            source = paths[name]
        elif kind == "corpus":
            if other is None:
                raise ValueError("tokenizer.corpus needs the folder of the other corpus's tokenizer")
            name = read_info(other)["file"]
            source = Path(other) / name
            if (Path(other) / TRAINED_ON).is_file():
                shutil.copyfile(Path(other) / TRAINED_ON, temporary / TRAINED_ON)
        else:
            source, name = (
                (config.file, "tokenizer.json")
                if kind == "file"
                else (config.sentencepiece, "tokenizer.model")
            )
        if source is not None:
            if not Path(source).is_file():
                raise InputError(f"tokenizer.{kind}: {source}: no such file")
            shutil.copyfile(source, temporary / name)
        try:
            tokenizer = open_tokenizer(temporary / name, eot)
        except InputError as error:  # the message names the given file, not its copy
            raise InputError(
                str(error).replace(str(temporary / name), str(source or f"tokenizer.{kind}"), 1)
            ) from None
        info = {
            "kind": kind,
            "file": name,
            "vocab_size": tokenizer.vocab_size,
            "eot": tokenizer.eot,
            "eot_id": tokenizer.eot_id,
            "sha256": sha256_file(temporary / name),
            "standing": _free_standing(corpus, other),
            "provenance": provenance({"tokenizer": config.model_dump(exclude_none=True), "eot": eot}),
        }
        if info["standing"] is not None and config.standing == "assumed":
            nothing = f"the tokenizer costs nothing ({info['standing']['kind']})"
            raise InputError(
                f"tokenizer.standing: assumed, but {nothing}; leave standing and fixed_before out"
            )
        if info["standing"] is None and config.standing == "assumed":
            info["standing"] = {"kind": "assumed", "fixed_before": config.fixed_before}
        elif info["standing"] is None:
            # The archive does not hold the standing, so that it may be measured before its size is known.
            write_json(temporary / INFO, info | {"standing": {"kind": "paid", "archive_bytes": 1}})
            info["standing"] = {"kind": "paid", "archive_bytes": archive_bytes(temporary)}
        write_json(temporary / INFO, info)


def _eot_of(path, facts):
    """Return the end-of-text token that a GGUF file names."""
    if facts.eos_id is None:
        raise InputError(f"{path}: no eos_token_id in it; expected one, or `eot` in the corpus")
    return facts.tokens[facts.eos_id]


def _free_standing(corpus, other):
    """Return the standing of a tokenizer that costs nothing, or None."""
    config = corpus.tokenizer
    if config.train is not None:
        return {"kind": "trained"}
    if config.vocabulary is not None and is_of_the_program(config.vocabulary, corpus.eot or DEFAULT_EOT):
        return {"kind": "program"}
    standing = read_info(other)["standing"]["kind"] if config.corpus is not None else None
    if standing == "trained":
        return {"kind": "taken", "corpus": config.corpus}
    return {"kind": "program"} if standing == "program" else None


def check_standing(folder):
    """Check the standing of a prepared tokenizer as far as its folder can show it; return ``info.json``.

    Raises
    ------
    InputError
        A tokenizer of the program that is not one, or an archive that is larger than what is paid.
    """
    folder, info = Path(folder), read_info(folder)
    standing = info["standing"]
    if standing["kind"] == "program":
        tokenizer = load_tokenizer(folder)
        tokens = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
        listed = listed_tokenizer(tokens).to_str(pretty=True)
        if not is_of_the_program(tokens, tokenizer.eot) or listed != (folder / info["file"]).read_text():
            raise InputError(f"{folder / info['file']}: not a vocabulary that the program defines")
    if standing["kind"] == "paid" and (size := archive_bytes(folder)) > standing["archive_bytes"]:
        paid = f"standing says {standing['archive_bytes']}"
        raise InputError(f"{folder / INFO}: the tokenizer's files take {size} bytes compressed, but {paid}")
    if standing["kind"] in FREE[:2] and not (folder / TRAINED_ON).is_file():
        raise InputError(f"{folder / TRAINED_ON}: no such file; expected what it was trained on")
    return info


def load_tokenizer(folder) -> TextTokenizer:
    """Open a tokenizer that `prepare_tokenizer` wrote; an `InputError` names its file if it was changed."""
    folder = Path(folder)
    info = read_info(folder)
    path = folder / info["file"]
    check_sha256(path, info["sha256"])
    tokenizer = open_tokenizer(path, info["eot"])
    for key in ("vocab_size", "eot_id"):
        if getattr(tokenizer, key) != info[key]:
            raise InputError(f"{folder / INFO}: {key} {info[key]}, but {path} has {getattr(tokenizer, key)}")
    return tokenizer
