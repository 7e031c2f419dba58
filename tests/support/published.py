"""Messages of published checkpoints, made without Snakemake."""

from types import SimpleNamespace

from support.messages import contexts_of
from tokenbounds.codecs.archive import zip_message
from tokenbounds.codecs.decode import write_message
from tokenbounds.io.files import write_json


def tokenizer_of(vocab_size):
    """What reading a checkpoint asks of a tokenizer of so many tokens, of which 0 ends a text."""
    return SimpleNamespace(vocab_size=vocab_size, eot_id=0, bos_id=None, spelling=str)


TOKENS = tokenizer_of(30)
OPTIONS = {"family": "quip", "start_token": "always"}
ENTRY = {"mode": "token", "context_length": 16}
CONTEXTS = contexts_of(tuple(ENTRY.values()))
CODEC = {"tool": ["gzip"], "split_planes": False}


def write_published(root, folder, options=OPTIONS, codec=CODEC):
    """Write a message in results/run/messages, as rule `compress` leaves it."""
    frame, record = zip_message(folder, codec, options, TOKENS, CONTEXTS, progress=False)
    path = root / "results/run/messages/model.gzip.bin"
    message = write_message(path, frame)
    write_json(path.with_suffix(".json"), {"folder": str(folder)})
    return path, message, record
