"""Published checkpoints as they are: the hypothesis is the files, and its message what a compressor makes of them.

The message on disk is a frame (`tokenbounds.message`, codec ``zip``) that names the compressor, the files with their sha256, and how many
bytes they compress to. The compressed bytes themselves are counted and not kept: C(h) is 8 times the frame's bytes and theirs. The frame
names the compressor, so that which of several was the smallest is part of the message and needs no further payment.
"""

from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt

from tokenbounds.compressors import Compressor, size_record
from tokenbounds.errors import InputError
from tokenbounds.files import sha256_file
from tokenbounds.message import encode
from tokenbounds.models import CONFIG_FILE, checked
from tokenbounds.models.causal import read_folder, weight_files
from tokenbounds.models.quip import QuipCheckpoint, QuipLlama
from tokenbounds.sections import HypothesisConfig


class PublishedConfig(HypothesisConfig):
    """Hypothesis configuration of a checkpoint that is its own message: what its files do not say."""

    family: Literal["pretrained", "quip"]
    context_length: PositiveInt


def open_checkpoint(folder, options, tokens):
    """The checkpoint in a folder as a hypothesis.

    Parameters
    ----------
    folder : path
    options : dict
        The model's section of the configuration: ``family``, ``start_token``, ``context_length`` (optional).
    tokens : dict
        ``vocab_size`` and ``eot_id`` of the tokens it is to predict.

    Returns
    -------
    config : dict
        A `PublishedConfig`.
    files : list of Path
        What the hypothesis is made of: configuration, index, and the weights that the index names.

    Raises
    ------
    InputError
        As for `QuipCheckpoint` and `read_folder`; fewer rows in the embedding than tokens in the vocabulary.
    """
    config = {key: tokens[key] for key in ("vocab_size", "eot_id")} | {key: options[key] for key in ("family", "start_token")}
    if options["family"] == "quip":
        checkpoint = QuipCheckpoint(folder)
        longest, files = checkpoint.config.max_position_embeddings, checkpoint.files
        _check_vocabulary(folder, checkpoint.config.vocab_size, tokens["vocab_size"])
    else:
        _, found = read_folder(folder, **tokens, start_token=options["start_token"], context_length=options.get("context_length"))
        where, weights = weight_files(folder)
        longest = found["context_length"]
        files = [Path(folder) / CONFIG_FILE, *([where] if where not in weights else []), *weights]
    config["context_length"] = options.get("context_length") or longest
    if config["context_length"] > longest:
        raise InputError(f"{folder}: context_length {config['context_length']} is longer than the model's {longest} positions")
    checked(PublishedConfig, config, folder)
    return config, files


def _check_vocabulary(folder, rows, vocab_size):
    if rows < vocab_size:
        raise InputError(f"{folder}: the model knows {rows} tokens; expected the {vocab_size} of the corpus' tokenizer at least")


def zip_message(folder, codec, options, tokens, contexts, progress=True):
    """The frame of a checkpoint's message, and how its size came about.

    Parameters
    ----------
    folder, options, tokens
        As for `open_checkpoint`.
    codec : dict
        ``tool`` (a list: the best is taken), ``level`` and ``split_planes`` of the compressors.
    contexts : dict
        What each sampling scheme lets a prediction see, by name.
    progress : bool
        As for `tokenbounds.compressors.size_record`.

    Returns
    -------
    frame : bytes
    record : dict
        As `tokenbounds.compressors.size_record` returns it.
    """
    config, files = open_checkpoint(folder, options, tokens)
    compressors = [Compressor(tool, codec.get("level"), codec["split_planes"]) for tool in codec["tool"]]
    record = size_record(files, compressors, progress=progress)
    described = {"hypothesis": config, "contexts": contexts, "files": record["files"], "compressed_bytes": record["bytes"]}
    chosen = {"kind": "zip", **{key: record[key] for key in ("tool", "level", "split_planes")}}
    return encode({}, described, codec=chosen, layout=[]), record


def check_files(message, folder, where="message"):
    """Refuse a folder that does not hold the files of a ``zip`` message, byte for byte; `InputError` names the first that differs."""
    for path, entry in _files(message, folder, where):
        _check_hash(path, sha256_file(path), entry["sha256"], where)


def compressed_again(message, folder, where="message"):
    """Bytes that the compressor of a ``zip`` message makes of its files now; `InputError` if they are not its files."""
    paths, entries = zip(*_files(message, folder, where), strict=True)
    compressor = Compressor(**{key: message.codec[key] for key in ("tool", "level", "split_planes")})
    record = size_record(paths, [compressor])
    for path, found, entry in zip(paths, record["files"], entries, strict=True):
        _check_hash(path, found["sha256"], entry["sha256"], where)
    return record["bytes"]


def _files(message, folder, where):
    """(path, entry) of each file that a ``zip`` message names."""
    for entry in message.config["files"]:
        if Path(entry["name"]).name != entry["name"]:
            raise InputError(f"{where}: file {entry['name']!r}; expected a name without a folder")
        yield Path(folder) / entry["name"], entry


def _check_hash(path, found, expected, where):
    if found != expected:
        raise InputError(f"{path}: not the file that {where} is about (sha256 {found[:12]}..., expected {expected[:12]}...)")


def published_model(message, folder, where="message", device="cpu"):
    """The model of a ``zip`` message, in float32 and evaluation mode, from files that were checked with `check_files`."""
    config = message.config["hypothesis"]
    checked(PublishedConfig, config, where)
    if config["family"] == "quip":
        return QuipLlama(QuipCheckpoint(folder, resident=_fits(message, device)), config["vocab_size"]).eval()
    options = {key: config[key] for key in ("vocab_size", "eot_id", "start_token", "context_length")}
    return read_folder(folder, **options)[0]


def _fits(message, device):
    """Whether packed weights should be kept on the device: on a GPU with room for a dense layer, the head and activations besides."""
    device = torch.device(device)
    if device.type != "cuda":
        return False  # the system keeps the pages of the files as memory allows
    free, _ = torch.cuda.mem_get_info(device)
    return sum(entry["bytes"] for entry in message.config["files"]) < free - (16 << 30)
