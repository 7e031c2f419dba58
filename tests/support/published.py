"""Messages of published checkpoints, made without Snakemake."""

from types import SimpleNamespace

from support.messages import contexts_of
from tokenbounds.codecs.archive import zip_message
from tokenbounds.codecs.decode import write_message
from tokenbounds.io.files import write_json

TOKENS = SimpleNamespace(vocab_size=30, eot_id=0, bos_id=None)
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
