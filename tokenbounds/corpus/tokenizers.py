"""Tokenizers: text to token ids and back, from a given file or trained on documents of the corpus.

A tokenizer here adds nothing of its own: no token before or after a text, no truncation, and text that spells
a special token is text (Python sources do contain ``<|endoftext|>``). The end-of-text token (EOT) is appended
to each document by `tokenbounds.corpus.shards.tokenize_shard`, and is nowhere else.

A prepared tokenizer is a folder (`tokenbounds.corpus.tokenizer_folder`)."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import TOKENIZER, read_manifest
from tokenbounds.corpus.readers import read_range
from tokenbounds.corpus.store import token_dtype
from tokenbounds.corpus.synthetic.vocabularies import is_of_the_program
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
from tokenbounds.io.provenance import provenance

# Ids of a text by the published GPT-2 tokenizer, which a wrong or half-read vocabulary would not give.
_GPT2_TEXT, _GPT2_IDS = "Hello, my dog is cute", [15496, 11, 616, 3290, 318, 13779]
_PIECE_CHARACTERS = 1 << 20
_LINE_END = re.compile(r"(?<=\S\n)(?=\S)")


class TextTokenizer:
    """Text to token ids and back.

    Attributes
    ----------
    vocab_size : int
        V: all ids are below it.
    eot : str
    eot_id : int
        End-of-text token and its id, with which no text is encoded.
    """

    def __init__(self, eot, eot_id, vocab_size):
        self.eot, self.eot_id, self.vocab_size = eot, eot_id, vocab_size
        token_dtype(vocab_size)

    def encode_batch(self, texts, places=None):
        """Encode each text, without EOT; ids given in place of a text are only checked.

        Parameters
        ----------
        texts : list of str, or of ndarray of uint32
        places : list of str, optional
            Names of the texts in messages, e.g. file and line.

        Returns
        -------
        list of ndarray of uint32, shape (tokens,)

        Raises
        ------
        InputError
            A text cannot be encoded, an id is outside the vocabulary, or the ids contain the EOT.
        """
        encoded = []
        for number, text in enumerate(texts):
            name = places[number] if places else f"text {number}"
            try:
                ids = text if isinstance(text, np.ndarray) else self._encode(text)
            except Exception as error:  # the library raises bare Exception
                raise InputError(
                    f"{name}: the tokenizer cannot encode it ({' '.join(str(error).split())})"
                ) from None
            if ids.size and ids.max() >= self.vocab_size:
                giver = "found" if isinstance(text, np.ndarray) else "the tokenizer gave"
                raise InputError(
                    f"{name}: {giver} id {ids.max()}, outside the vocabulary of {self.vocab_size}"
                )
            if (ids == self.eot_id).any():
                eot = f"the end-of-text id {self.eot_id} ('{self.eot}')"
                raise InputError(f"{name}: the text's own ids hold {eot}, which only ends documents")
            encoded.append(ids)
        return encoded


class _HuggingFace(TextTokenizer):
    def __init__(self, path, eot):
        self._tokenizer = _read_tokenizer_json(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None  # leaving out merges at random is for training models
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if eot not in vocabulary:
            special = [
                token.content
                for token in self._tokenizer.get_added_tokens_decoder().values()
                if token.special
            ]
            raise InputError(_no_eot(path, eot, special, vocabulary))
        # Mark the EOT as special in case the file does not: only special tokens can be kept out of the
        # encoding of a text that spells them.
        self._tokenizer.add_special_tokens([tokenizers.AddedToken(eot, special=True, normalized=False)])
        self._tokenizer.encode_special_tokens = True
        super().__init__(eot, vocabulary[eot], max(vocabulary.values()) + 1)

    def _encode(self, text):
        pieces = [
            self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0].ids
            for piece in _pieces(text)
        ]
        return np.concatenate([np.array(ids, np.uint32) for ids in pieces])

    def decode(self, ids):
        """Return the text of token ids."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)

    def pieces(self):
        """Return the bytes that each token spells; none for special tokens and unused ids."""
        added = self._tokenizer.get_added_tokens_decoder()
        byte_level = '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str())["decoder"])
        spellings = []
        for token in range(self.vocab_size):
            piece = self._tokenizer.id_to_token(token)
            if piece is None or (token in added and added[token].special):
                spellings.append(b"")
            elif byte_level and token not in added:
                spellings.append(bytes(_BYTES[character] for character in piece))
            else:
                spellings.append(_piece_bytes(piece))
        return spellings


class _SentencePiece(TextTokenizer):
    def __init__(self, path, eot):
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: not a SentencePiece model ({' '.join(str(error).split())})") from None
        eot_id = self._processor.piece_to_id(eot)
        if self._processor.id_to_piece(eot_id) != eot:
            pieces = [self._processor.id_to_piece(token) for token in range(self._processor.get_piece_size())]
            special = [piece for token, piece in enumerate(pieces) if self._processor.is_control(token)]
            raise InputError(_no_eot(path, eot, special, pieces))
        super().__init__(eot, eot_id, self._processor.get_piece_size())

    def _encode(self, text):
        return np.array(self._processor.encode(text), np.uint32)

    def decode(self, ids):
        """Return the text of token ids."""
        return self._processor.decode([int(token) for token in ids])

    def pieces(self):
        """Return the bytes that each token spells; none for control tokens and the unknown one."""
        nothing = [
            self._processor.is_control(token) or self._processor.is_unknown(token)
            for token in range(self.vocab_size)
        ]
        return [
            b"" if nothing[token] else _piece_bytes(self._processor.id_to_piece(token))
            for token in range(self.vocab_size)
        ]


def _piece_bytes(piece):
    """Return the bytes of a piece of a SentencePiece vocabulary: U+2581 is a space, ``<0x0A>`` a byte."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _byte_characters():
    """Map each character of a byte-level vocabulary to its byte [Radford et al. 2019].

    A visible character stands for itself; the other bytes are numbered from 256 on, in order."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + place): byte for place, byte in enumerate(hidden)
    }


_BYTES = _byte_characters()


def _pieces(text):
    """Cut a text of more than a million characters, as `tokenizers` takes some 140 bytes per character.

    The cut is after a newline between two characters that are not spaces. The patterns by which GPT-2, GPT-4
    and LLaMA-3 split text into words split there too, so that the ids are those of the whole text. If the
    next million characters hold no such place, the text is cut after them."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        least, most = start + _PIECE_CHARACTERS, start + 2 * _PIECE_CHARACTERS
        line_end = _LINE_END.search(text, least, most)
        end = line_end.end() if line_end else min(most, len(text))
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def _no_eot(path, eot, special, vocabulary):
    hint = f"; its special tokens are {', '.join(special[:8])}" if special else ""
    return (
        f"{path}: the end-of-text token '{eot}' (key eot) is not in its vocabulary of {len(vocabulary)}{hint}"
    )


def _read_tokenizer_json(path):
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path}: not a tokenizer.json ({' '.join(str(error).split())})") from None


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


def prepare_tokenizer(corpus: Corpus, folder, *, documents=None, hub_files=None, other=None):
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

    Raises
    ------
    InputError
        A missing or unreadable file, a vocabulary that is not GPT-2's, an EOT that is not in the vocabulary,
        or a tokenizer with nothing to assume that is said to be assumed.
    """
    config = corpus.tokenizer
    kind = config.kind
    with atomic_folder(folder) as temporary:
        if kind == "train":
            if documents is None:
                raise ValueError("tokenizer.train needs documents to train on")
            source, name, digests = None, "tokenizer.json", []
            texts = (digests.append(text_digest(text)) or text for text in documents)
            train_tokenizer(texts, config.train.vocab_size, corpus.eot).save(str(temporary / name))
            write_trained_on(temporary, digests)
        elif kind == "gpt2":
            source, name = None, "tokenizer.json"
            _gpt2_tokenizer(config.gpt2).save(str(temporary / name))
        elif kind == "vocabulary":
            source, name = None, "tokenizer.json"
            listed_tokenizer(config.vocabulary).save(str(temporary / name))
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
            tokenizer = _open_tokenizer(temporary / name, corpus.eot)
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
            "provenance": provenance({"tokenizer": config.model_dump(exclude_none=True), "eot": corpus.eot}),
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


def _free_standing(corpus, other):
    """Return the standing of a tokenizer that costs nothing, or None."""
    config = corpus.tokenizer
    if config.train is not None:
        return {"kind": "trained"}
    if config.vocabulary is not None and is_of_the_program(config.vocabulary, corpus.eot):
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


def _open_tokenizer(path, eot):
    return (_SentencePiece if path.suffix == ".model" else _HuggingFace)(path, eot)


def load_tokenizer(folder) -> TextTokenizer:
    """Open a tokenizer that `prepare_tokenizer` wrote; an `InputError` names its file if it was changed."""
    folder = Path(folder)
    info = read_info(folder)
    path = folder / info["file"]
    check_sha256(path, info["sha256"])
    tokenizer = _open_tokenizer(path, info["eot"])
    for key in ("vocab_size", "eot_id"):
        if getattr(tokenizer, key) != info[key]:
            raise InputError(f"{folder / INFO}: {key} {info[key]}, but {path} has {getattr(tokenizer, key)}")
    return tokenizer
