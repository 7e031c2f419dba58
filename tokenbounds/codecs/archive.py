"""Published checkpoints: the hypothesis is the files themselves, its message the output of a compressor.

The message on disk is a frame (`tokenbounds.codecs.frame`, codec ``zip``) that names the compressor, the
files with their sha256, and how many bytes they compress to. The compressed bytes themselves are counted and
not kept::

    C(h) = 8 (bytes of the frame + compressed bytes of the files)

The frame names the compressor: the choice of the smallest among several is part of the message and adds no
complexity term.
"""

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt

from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.compressors import Compressor, size_record
from tokenbounds.codecs.frame import encode
from tokenbounds.config.schema import HypothesisConfig
from tokenbounds.config.schema.base import checked
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file
from tokenbounds.models.folders import CONFIG_FILE
from tokenbounds.models.pretrained import read_folder, weight_files
from tokenbounds.models.quip.checkpoint import QuipCheckpoint
from tokenbounds.models.quip.llama import QuipLlama


class ZipCodec(Codec):
    """Published files under a compressor: the frame names them and says how many bytes they compress to; it
    does not hold these."""

    defaults: ClassVar = {"tool": "gzip", "level": None, "split_planes": False}
    needs_tensors: ClassVar = False
    opens_files: ClassVar = True

    def check(self, options):
        """Refuse an unknown tool or level."""
        Compressor(**{key: options[key] for key in self.defaults})

    def write(self, writer, tensors, options):
        """Append nothing."""
        if tensors:
            raise InputError(
                f"tensor {next(iter(tensors))!r}; expected none for codec 'zip', whose message is files"
            )

    def read(self, reader, layout, options):
        """Read nothing."""
        return []

    def open_model(self, message, folder, name, device):
        """Read the model of a message from the files in a folder, after checking that they are the
        message's; `name` is that of the message in errors."""
        check_files(message, folder, name)
        return published_model(message, folder, name, device)


class PublishedConfig(HypothesisConfig):
    """Hypothesis configuration of a checkpoint that is its own message: facts that its files do not state."""

    family: Literal["pretrained", "quip"]
    context_length: PositiveInt


def open_checkpoint(folder, options, tokens):
    """Describe the checkpoint in a folder as a hypothesis.

    Parameters
    ----------
    folder : path
    options : dict
        The model's section of the configuration: ``family``, ``start_token``, ``context_length`` (optional).
    tokens : dict
        ``vocab_size`` and ``eot_id`` of the tokens to predict.

    Returns
    -------
    config : dict
        A `PublishedConfig`.
    files : list of Path
        Files of the hypothesis: configuration, index, and the weights that the index names.

    Raises
    ------
    InputError
        See `QuipCheckpoint` and `read_folder`; fewer rows in the embedding than tokens in the vocabulary.
    """
    config = {key: tokens[key] for key in ("vocab_size", "eot_id")} | {
        key: options[key] for key in ("family", "start_token")
    }
    if options["family"] == "quip":
        checkpoint = QuipCheckpoint(folder)
        longest, files = checkpoint.config.max_position_embeddings, checkpoint.files
        _check_vocabulary(folder, checkpoint.config.vocab_size, tokens["vocab_size"])
    else:
        _, loaded = read_folder(
            folder, **tokens, start_token=options["start_token"], context_length=options.get("context_length")
        )
        listing, weights = weight_files(folder)
        longest = loaded["context_length"]
        files = [Path(folder) / CONFIG_FILE, *([listing] if listing not in weights else []), *weights]
    length = config["context_length"] = options.get("context_length") or longest
    if length > longest:
        raise InputError(f"{folder}: context_length {length} is longer than the model's {longest} positions")
    checked(PublishedConfig, config, folder)
    return config, files


def _check_vocabulary(folder, rows, vocab_size):
    if rows < vocab_size:
        expected = f"the {vocab_size} of the corpus' tokenizer at least"
        raise InputError(f"{folder}: the model knows {rows} tokens; expected {expected}")


def zip_message(folder, codec, options, tokens, contexts, progress=True):
    """Compress the files of a checkpoint and write the frame of its message.

    Parameters
    ----------
    folder, options, tokens
        See `open_checkpoint`.
    codec : dict
        ``tool`` (a list: the best is taken), ``level`` and ``split_planes`` of the compressors.
    contexts : dict
        Contexts of predictions under each sampling scheme, by name.
    progress : bool
        See `tokenbounds.codecs.compressors.size_record`.

    Returns
    -------
    frame : bytes
    record : dict
        The return value of `tokenbounds.codecs.compressors.size_record`.
    """
    config, files = open_checkpoint(folder, options, tokens)
    compressors = [Compressor(tool, codec.get("level"), codec["split_planes"]) for tool in codec["tool"]]
    record = size_record(files, compressors, progress=progress)
    described = {
        "hypothesis": config,
        "contexts": contexts,
        "files": record["files"],
        "compressed_bytes": record["bytes"],
    }
    chosen = {"kind": "zip", **{key: record[key] for key in ("tool", "level", "split_planes")}}
    return encode({}, described, codec=chosen, layout=[]), record


def check_files(message, folder, name="message"):
    """Refuse a folder that does not hold the files of a ``zip`` message, byte for byte; the `InputError`
    names the first that differs."""
    for path, entry in _files(message, folder, name):
        _check_hash(path, sha256_file(path), entry["sha256"], name)


def compressed_again(message, folder, name="message"):
    """Compress the files of a ``zip`` message again and count the bytes; an `InputError` if they are not its
    files."""
    paths, entries = zip(*_files(message, folder, name), strict=True)
    compressor = Compressor(**{key: message.codec[key] for key in ("tool", "level", "split_planes")})
    record = size_record(paths, [compressor])
    for path, measured, entry in zip(paths, record["files"], entries, strict=True):
        _check_hash(path, measured["sha256"], entry["sha256"], name)
    return record["bytes"]


def _files(message, folder, name):
    """Yield (path, entry) of each file that a ``zip`` message names."""
    for entry in message.config["files"]:
        if Path(entry["name"]).name != entry["name"]:
            raise InputError(f"{name}: file {entry['name']!r}; expected a name without a folder")
        yield Path(folder) / entry["name"], entry


def _check_hash(path, digest, expected, name):
    if digest != expected:
        hashes = f"sha256 {digest[:12]}..., expected {expected[:12]}..."
        raise InputError(f"{path}: not the file that {name} is about ({hashes})")


def published_model(message, folder, name="message", device="cpu"):
    """Load the model of a ``zip`` message, in float32 and evaluation mode, from files that `check_files` has
    checked."""
    config = message.config["hypothesis"]
    checked(PublishedConfig, config, name)
    if config["family"] == "quip":
        return QuipLlama(QuipCheckpoint(folder, resident=_fits(message, device)), config["vocab_size"]).eval()
    options = {key: config[key] for key in ("vocab_size", "eot_id", "start_token", "context_length")}
    return read_folder(folder, **options)[0]


def _fits(message, device):
    """Tell whether packed weights should be kept on the device: on a GPU that has room for a dense layer, the
    head and activations besides."""
    device = torch.device(device)
    if device.type != "cuda":
        return False  # the system keeps the pages of the files as memory allows
    free, _ = torch.cuda.mem_get_info(device)
    return sum(entry["bytes"] for entry in message.config["files"]) < free - (16 << 30)
