"""From text to token ids: the tokenizer of a corpus, and its shards, one document at a time.

A tokenizer here adds nothing of its own: no token before or after a text, no truncation, and text that spells a special token is text
(Python sources do contain ``<|endoftext|>``). The end-of-text token (EOT) is appended to each document by `tokenize_shard`, and is nowhere
else.
"""

import collections
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers
from tqdm import tqdm

from tokenbounds.corpus import SPLITS, TOKENIZER, read_manifest, token_dtype
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_folder, atomic_path, check_sha256, provenance, read_json, sha256_file, write_json
from tokenbounds.sections import Corpus
from tokenbounds.sources import read_range, worker_pool

# Of the published GPT-2 tokenizer: what a wrong or half-read vocabulary would not give.
_GPT2_TEXT, _GPT2_IDS = "Hello, my dog is cute", [15496, 11, 616, 3290, 318, 13779]
_PIECE_CHARACTERS = 1 << 20
_LINE_END = re.compile(r"(?<=\S\n)(?=\S)")
_BATCH_CHARACTERS = 1 << 20
_BATCH_DOCUMENTS = 512


# ---------------------------------------------------------------- tokenizers


class TextTokenizer:
    """Text to token ids and back.

    Attributes
    ----------
    vocab_size : int
        V: all ids are below it.
    eot : str
    eot_id : int
        The end-of-text token; no text is encoded with it.
    """

    def __init__(self, eot, eot_id, vocab_size):
        self.eot, self.eot_id, self.vocab_size = eot, eot_id, vocab_size
        token_dtype(vocab_size)

    def encode_batch(self, texts, where=None):
        """Ids of each text, without EOT; ids that are given in place of a text are checked only.

        Parameters
        ----------
        texts : list of str, or of ndarray of uint32
        where : list of str, optional
            What messages call the texts.

        Returns
        -------
        list of ndarray of uint32, shape (tokens,)
        """
        encoded = []
        for number, text in enumerate(texts):
            name = where[number] if where else f"text {number}"
            try:
                ids = text if isinstance(text, np.ndarray) else self._encode(text)
            except Exception as error:  # the library raises bare Exception
                raise InputError(f"{name}: the tokenizer cannot encode it ({' '.join(str(error).split())})") from None
            if ids.size and ids.max() >= self.vocab_size:
                giver = "found" if isinstance(text, np.ndarray) else "the tokenizer gave"
                raise InputError(f"{name}: {giver} id {ids.max()}, outside the vocabulary of {self.vocab_size}")
            if (ids == self.eot_id).any():
                raise InputError(
                    f"{name}: the text's own ids hold the end-of-text id {self.eot_id} ('{self.eot}'), which only ends documents"
                )
            encoded.append(ids)
        return encoded


class _HuggingFace(TextTokenizer):
    def __init__(self, path, eot):
        self._tokenizer = _read_tokenizer_json(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None  # merges left out at random are for training models
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if eot not in vocabulary:
            special = [token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
            raise InputError(_no_eot(path, eot, special, vocabulary))
        # Marked as special in case the file does not, because only special tokens can be kept from being found in text.
        self._tokenizer.add_special_tokens([tokenizers.AddedToken(eot, special=True, normalized=False)])
        self._tokenizer.encode_special_tokens = True
        super().__init__(eot, vocabulary[eot], max(vocabulary.values()) + 1)

    def _encode(self, text):
        pieces = [self._tokenizer.encode_batch_fast([piece], add_special_tokens=False)[0].ids for piece in _pieces(text)]
        return np.concatenate([np.array(ids, np.uint32) for ids in pieces])

    def decode(self, ids):
        """Text of token ids."""
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)

    def pieces(self):
        """What each token spells, as bytes; nothing for special tokens and unused ids."""
        added = self._tokenizer.get_added_tokens_decoder()
        byte_level = '"ByteLevel"' in json.dumps(json.loads(self._tokenizer.to_str())["decoder"])
        found = []
        for token in range(self.vocab_size):
            piece = self._tokenizer.id_to_token(token)
            if piece is None or (token in added and added[token].special):
                found.append(b"")
            elif byte_level and token not in added:
                found.append(bytes(_BYTES[character] for character in piece))
            else:
                found.append(_piece_bytes(piece))
        return found


class _SentencePiece(TextTokenizer):
    def __init__(self, path, eot):
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: not a SentencePiece model ({' '.join(str(error).split())})") from None
        eot_id = self._processor.piece_to_id(eot)
        if self._processor.id_to_piece(eot_id) != eot:
            pieces = [self._processor.id_to_piece(token) for token in range(self._processor.get_piece_size())]
            raise InputError(_no_eot(path, eot, [piece for token, piece in enumerate(pieces) if self._processor.is_control(token)], pieces))
        super().__init__(eot, eot_id, self._processor.get_piece_size())

    def _encode(self, text):
        return np.array(self._processor.encode(text), np.uint32)

    def decode(self, ids):
        """Text of token ids."""
        return self._processor.decode([int(token) for token in ids])

    def pieces(self):
        """What each token spells, as bytes; nothing for control tokens and the unknown one."""
        nothing = [self._processor.is_control(token) or self._processor.is_unknown(token) for token in range(self.vocab_size)]
        return [b"" if nothing[token] else _piece_bytes(self._processor.id_to_piece(token)) for token in range(self.vocab_size)]


def _piece_bytes(piece):
    """What a piece of a SentencePiece vocabulary spells: a lower block is a space, ``<0x0A>`` a byte."""
    byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _byte_characters():
    """Which byte each character of a byte-level vocabulary means [Radford et al. 2019]: itself if visible, else they count from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_characters()


def _pieces(text):
    """A text of more than a million characters in parts, because `tokenizers` takes some 140 bytes of memory per character.

    They are cut after a newline between two characters that are no space. The patterns by which GPT-2, GPT-4 and LLaMA-3 split text into
    words split there too, so that the ids are those of the whole text. A million characters more without such a place are cut as they are.
    """
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        least, most = start + _PIECE_CHARACTERS, start + 2 * _PIECE_CHARACTERS
        found = _LINE_END.search(text, least, most)
        end = found.end() if found else min(most, len(text))
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def _no_eot(path, eot, special, vocabulary):
    hint = f"; its special tokens are {', '.join(special[:8])}" if special else ""
    return f"{path}: the end-of-text token '{eot}' (key eot) is not in its vocabulary of {len(vocabulary)}{hint}"


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
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{folder}: encoder.json and vocab.bpe do not fit together ({' '.join(str(error).split())})") from None
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    found = tokenizer.encode(_GPT2_TEXT).ids
    if found != _GPT2_IDS:
        raise InputError(f"{folder}: not GPT-2's vocabulary: '{_GPT2_TEXT}' gives {found}, expected {_GPT2_IDS}")
    return tokenizer


def listed_tokenizer(tokens) -> tokenizers.Tokenizer:
    """A tokenizer of these tokens only, the longest first where several fit: a token's id is its place in the list."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({token: place for place, token in enumerate(tokens)}))
    longest_first = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(longest_first), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    return tokenizer


def train_tokenizer(texts, vocab_size, eot) -> tokenizers.Tokenizer:
    """Train a byte-level BPE on `texts`.

    Every text can be encoded: all 256 bytes are in the vocabulary. Equal texts in equal order give an equal tokenizer. Where the texts hold
    too few pairs to merge, the vocabulary is smaller than asked for.

    Parameters
    ----------
    texts : iterable of str
    vocab_size : int
        Ids in all, EOT included.
    eot : str
        The end-of-text token, a special token with id 0.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[eot], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def training_documents(corpus: Corpus, manifest_path, roles_path):
    """Texts of the documents that the corpus's tokenizer is trained on, in order."""
    manifest, files, roles = read_manifest(manifest_path, roles_path)
    for number, _, text in read_range(files, corpus.source.field, 0, manifest["documents"], corpus.source.part):
        if roles[number] == TOKENIZER:
            yield text


def prepare_tokenizer(corpus: Corpus, folder, *, documents=None, hub_files=None, other=None):
    """Write a corpus's tokenizer: ``tokenizer.json`` or ``tokenizer.model``, and ``info.json``.

    Parameters
    ----------
    corpus : Corpus
        Its section of the configuration.
    folder : path
        ``tokens/{corpus}/tokenizer``, replaced as a whole.
    documents : iterable of str, optional
        Texts to train on, for ``tokenizer.train``: `training_documents`.
    hub_files : list of dict, optional
        For ``tokenizer.hub``: what `tokenbounds.hub.download` returned.
    other : path, optional
        For ``tokenizer.corpus``: the folder of the other corpus's tokenizer.

    Raises
    ------
    InputError
        A missing or unreadable file, a vocabulary that is not GPT-2's, or an EOT that is not in the vocabulary.
    """
    config = corpus.tokenizer
    kind = config.kind
    with atomic_folder(folder) as temporary:
        if kind == "train":
            if documents is None:
                raise ValueError("tokenizer.train needs documents to train on")
            source, name = None, "tokenizer.json"
            train_tokenizer(documents, config.train.vocab_size, corpus.eot).save(str(temporary / name))
        elif kind == "gpt2":
            source, name = None, "tokenizer.json"
            _gpt2_tokenizer(config.gpt2).save(str(temporary / name))
        elif kind == "vocabulary":
            source, name = None, "tokenizer.json"
            listed_tokenizer(config.vocabulary).save(str(temporary / name))
        elif kind == "hub":
            if hub_files is None:
                raise ValueError("tokenizer.hub needs hub_files, the list that tokenbounds.hub.download returned")
            there = {entry["name"]: entry["path"] for entry in hub_files}
            name = next((name for name in ("tokenizer.json", "tokenizer.model") if name in there), None)
            if name is None:
                raise InputError(f"{config.hub}: found {', '.join(sorted(there))}; expected tokenizer.json or tokenizer.model")
            source = there[name]
        elif kind == "corpus":
            if other is None:
                raise ValueError("tokenizer.corpus needs the folder of the other corpus's tokenizer")
            name = read_json(Path(other) / "info.json")["file"]
            source = Path(other) / name
        else:
            source, name = (config.file, "tokenizer.json") if kind == "file" else (config.sentencepiece, "tokenizer.model")
        if source is not None:
            if not Path(source).is_file():
                raise InputError(f"tokenizer.{kind}: {source}: no such file")
            shutil.copyfile(source, temporary / name)
        try:
            tokenizer = _open_tokenizer(temporary / name, corpus.eot)
        except InputError as error:  # name the file that was given, not its copy
            raise InputError(str(error).replace(str(temporary / name), str(source or f"tokenizer.{kind}"), 1)) from None
        info = {
            "kind": kind,
            "file": name,
            "vocab_size": tokenizer.vocab_size,
            "eot": tokenizer.eot,
            "eot_id": tokenizer.eot_id,
            "sha256": sha256_file(temporary / name),
            "provenance": provenance({"tokenizer": config.model_dump(exclude_none=True), "eot": corpus.eot}),
        }
        write_json(temporary / "info.json", info)


def _open_tokenizer(path, eot):
    return (_SentencePiece if path.suffix == ".model" else _HuggingFace)(path, eot)


def load_tokenizer(folder) -> TextTokenizer:
    """Open a tokenizer that `prepare_tokenizer` wrote; an `InputError` names its file when it was changed."""
    folder = Path(folder)
    info = read_json(folder / "info.json")
    path = folder / info["file"]
    check_sha256(path, info["sha256"])
    tokenizer = _open_tokenizer(path, info["eot"])
    for key in ("vocab_size", "eot_id"):
        if getattr(tokenizer, key) != info[key]:
            raise InputError(f"{folder / 'info.json'}: {key} {info[key]}, but {path} has {getattr(tokenizer, key)}")
    return tokenizer


# ---------------------------------------------------------------- shards


class _Writer:
    """One split's part of a shard: token ids and document ends, hashed while they are written."""

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
        for (handle, digest), data in zip(self._files, (ids.tobytes(), np.array(self.tokens, "<u8").tobytes()), strict=True):
            handle.write(data)
            digest.update(data)

    def facts(self):
        bin_sha256, ends_sha256 = (digest.hexdigest() for _, digest in self._files)
        return {"tokens": self.tokens, "documents": self.documents, "sha256": bin_sha256, "ends_sha256": ends_sha256}


_worker_tokenizer = None


def _start_worker(folder):
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_tokenizer = load_tokenizer(folder)


def _encode_in_worker(texts, where):
    return _encode(_worker_tokenizer, texts, where)


def _encode(tokenizer, texts, where):
    """(lengths, ids): tokens of each document with its EOT, joined; length 1 is a document without text."""
    dtype, eot = token_dtype(tokenizer.vocab_size), np.array([tokenizer.eot_id])
    encoded = tokenizer.encode_batch(texts, where)
    return [len(ids) + 1 for ids in encoded], np.concatenate([part.astype(dtype) for ids in encoded for part in (ids, eot)])


def _batches(documents):
    """Lists of documents of about a million characters, so that what is in flight is bounded whatever the documents' sizes."""
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
    """(batch, lengths, ids) of every batch, in order; at most two batches per process are in flight."""
    columns = ((batch, [text for _, _, text in batch], [where for _, where, _ in batch]) for batch in batches)
    if processes == 1:
        for batch, texts, where in columns:
            yield batch, *_encode(tokenizer, texts, where)
        return
    pool = worker_pool(processes, _start_worker, (str(tokenizer_dir),))
    waiting = collections.deque()
    try:
        for batch, texts, where in itertools.chain(columns, itertools.repeat((None, None, None))):
            if batch is not None:
                # The texts go with the task; kept here are numbers and names only.
                waiting.append(([(number, name) for number, name, _ in batch], pool.submit(_encode_in_worker, texts, where)))
            if waiting and (batch is None or len(waiting) >= 2 * processes):
                kept, future = waiting.popleft()
                yield kept, *future.result()
            elif batch is None:
                return
    finally:
        pool.shutdown(cancel_futures=True)


def tokenize_shard(corpus: Corpus, manifest_path, roles_path, tokenizer_dir, shard, out_dir, processes=1):
    """Tokenize one shard's documents into ``train/`` and ``val/`` of `out_dir`: ``{shard}.bin``, ``.ends.bin`` and ``.json``.

    Documents keep their order; those the tokenizer was trained on are left out. What is written does not depend on `processes`. Files
    appear whole or not at all.

    Parameters
    ----------
    corpus : Corpus
        Its section of the configuration.
    manifest_path, roles_path : path
        From `tokenbounds.corpus.write_manifest`.
    tokenizer_dir : path
        From `prepare_tokenizer`.
    shard : int
        Its number.
    out_dir : path
        ``tokens/{corpus}``.
    processes : int
        Worker processes; 1 works in this one. They are spawned: a script that calls this needs ``if __name__ == "__main__":``.

    Raises
    ------
    InputError
        A document that cannot be read, is empty (unless ``empty_documents: skip``), or is encoded with the EOT id.
    """
    manifest, files, roles = read_manifest(manifest_path, roles_path)
    tokenizer = load_tokenizer(tokenizer_dir)
    if not 0 <= shard < len(manifest["shards"]):
        raise InputError(f"{manifest_path}: shard {shard} does not exist, expected 0 to {len(manifest['shards']) - 1}")
    source, (start, stop) = corpus.source, manifest["shards"][shard]
    if source.eot_id not in (None, tokenizer.eot_id):
        raise InputError(f"source.eot_id: {source.eot_id}; expected {tokenizer.eot_id}, the tokenizer's id of '{tokenizer.eot}'")
    found = read_range(files, source.field, start, stop, source.part, source.eot_id)
    documents = (document for document in found if roles[document[0]] != TOKENIZER)
    total = int((roles[start:stop] != TOKENIZER).sum())
    with contextlib.ExitStack() as stack:
        writers = {role: _Writer(stack, Path(out_dir) / split, shard) for split, role in SPLITS.items()}
        progress = stack.enter_context(tqdm(desc=f"tokenizing shard {shard}", total=total, unit="document", disable=None))
        encoded = stack.enter_context(contextlib.closing(_encoded_batches(_batches(documents), tokenizer, tokenizer_dir, processes)))
        for batch, lengths, ids in encoded:
            first = 0
            for (number, where, *_), length in zip(batch, lengths, strict=True):
                if length > 1:
                    writers[roles[number]].add(ids[first : first + length])
                elif corpus.empty_documents == "error":
                    raise InputError(f"{where}: a document without text; expected text, or empty_documents: skip")
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
        write_json(writer.stem.with_suffix(".json"), {"split": split, **shared, **writer.facts(), "provenance": origin})
