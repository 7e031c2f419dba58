"""Opened tokenizers: text to token ids and back.

A tokenizer here adds nothing of its own: no token before or after a text, no truncation, and text that spells
a special token is text (Python sources do contain ``<|endoftext|>``). The end-of-text token (EOT) is appended
to each document by `tokenbounds.corpus.shards.tokenize_shard`, and is nowhere else."""

import json
import re
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers

from tokenbounds.corpus.store import token_dtype
from tokenbounds.errors import InputError

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
    bos_id : int or None
        The token that the tokenizer itself puts before a text (BOS), which models trained with it expect;
        nothing is encoded with it here.
    """

    def __init__(self, eot, eot_id, vocab_size, bos_id):
        self.eot, self.eot_id, self.vocab_size, self.bos_id = eot, eot_id, vocab_size, bos_id
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
        super().__init__(eot, vocabulary[eot], max(vocabulary.values()) + 1, _leading(self._tokenizer))

    def spelling(self, token):
        """Return a token as the tokenizer's file spells it; None for an unused id."""
        return self._tokenizer.id_to_token(token)

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
        bos_id = self._processor.bos_id()  # -1 for none
        super().__init__(eot, eot_id, self._processor.get_piece_size(), bos_id if bos_id >= 0 else None)

    def spelling(self, token):
        """Return a token as the tokenizer's file spells it; None for an unused id."""
        return self._processor.id_to_piece(token)

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


def _leading(tokenizer):
    """Return the token that a tokenizer's own template puts before a text, or None."""
    if tokenizer.post_processor is None:
        return None
    try:
        plain, full = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    except Exception:  # the library raises bare Exception, here for a vocabulary without "a"
        return None
    return full[0] if len(full) > len(plain) and full[:1] != plain[:1] else None


def open_tokenizer(path, eot) -> TextTokenizer:
    """Open a tokenizer's file: a ``.model`` of SentencePiece, anything else of library `tokenizers`.

    Raises
    ------
    InputError
        It cannot be read, or has no such end-of-text token.
    """
    return (_SentencePiece if path.suffix == ".model" else _HuggingFace)(path, eot)
