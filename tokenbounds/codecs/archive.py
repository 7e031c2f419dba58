"""Published checkpoints: the hypothesis is the files themselves, its message the output of a compressor.

The message on disk is a frame (`tokenbounds.codecs.frame`, codec ``zip``) that names the compressor, the
files with their sha256, and how many bytes they compress to. The compressed bytes themselves are counted and
not kept::

    C(h) = 8 (bytes of the frame + compressed bytes of the files)

The model is read from a folder that holds links to the named files and nothing else, and these must be the
files that such a model consists of: what is not counted cannot be read. The frame names the compressor: the
choice of the smallest among several is part of the message and adds no complexity term.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import ClassVar

import torch

from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.compressors import Compressor, size_record
from tokenbounds.codecs.config_checks import PublishedConfig, canonical, check_config
from tokenbounds.codecs.frame import encode
from tokenbounds.errors import InputError
from tokenbounds.io.files import file_size, sha256_file
from tokenbounds.models.folders import CONFIG_FILE
from tokenbounds.models.pretrained import weight_files
from tokenbounds.models.published import read_published, read_source, start_facts
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
        compressor = Compressor(**{key: options[key] for key in self.defaults})
        if type(options["split_planes"]) is not bool:
            raise InputError(f"split_planes is {options['split_planes']!r}; expected true or false")
        if options["level"] != compressor.level:
            raise InputError(
                f"level is {options['level']!r}; expected a number, {compressor.level} by default"
            )

    def write(self, writer, fields, options):
        """Append nothing."""
        if fields:
            raise InputError(
                f"tensor {next(iter(fields))!r}; expected none for codec 'zip', whose message is files"
            )

    def read(self, reader, layout, options):
        """Read nothing."""
        return []

    def open_model(self, message, folder, name, device):
        """Read the model of a message from the files in a folder, after checking that they are the
        message's; `name` is that of the message in errors."""
        check_files(message, folder, name)
        return published_model(message, folder, name, device)


def open_checkpoint(source, options, tokenizer):
    """Describe a published checkpoint as a hypothesis.

    Parameters
    ----------
    source : path
        Its folder, or its GGUF file.
    options : dict
        The model's section of the configuration: ``family``, and of ``start_token``, ``start_id``,
        ``context_length`` what is given.
    tokenizer : tokenbounds.corpus.text_tokenizers.TextTokenizer
        Of the tokens to predict.

    Returns
    -------
    config : dict
        A `PublishedConfig`.
    files : list of Path
        Files of the hypothesis: configuration, index, and the weights that the index names.

    Raises
    ------
    InputError
        See `QuipCheckpoint` and `read_published`; fewer rows in the embedding than tokens in the vocabulary.
    """
    config = {"family": options["family"], "vocab_size": tokenizer.vocab_size, "eot_id": tokenizer.eot_id}
    config |= start_facts(options, tokenizer)
    if options["family"] == "quip":
        checkpoint = QuipCheckpoint(source)
        longest = checkpoint.config.max_position_embeddings
        _check_vocabulary(source, checkpoint.config.vocab_size, tokenizer.vocab_size)
    else:
        longest = read_published(source, options, tokenizer)[1]["context_length"]
    length = config["context_length"] = options.get("context_length") or longest
    if length > longest:
        raise InputError(f"{source}: context_length {length} is longer than the model's {longest} positions")
    canonical(PublishedConfig, config, source)
    return config, _files_of(source, options["family"])


def _files_of(source, family):
    """List the files that a checkpoint consists of: configuration, index if any, weights; or one GGUF
    file."""
    if family == "quip":
        return QuipCheckpoint(source).files
    if family == "gguf":
        return [Path(source)]
    listing, weights = weight_files(source)
    return [Path(source) / CONFIG_FILE, *([listing] if listing not in weights else []), *weights]


def _check_vocabulary(folder, rows, vocab_size):
    if rows < vocab_size:
        expected = f"the {vocab_size} of the corpus' tokenizer at least"
        raise InputError(f"{folder}: the model knows {rows} tokens; expected {expected}")


def zip_message(source, codec, options, tokenizer, contexts, progress=True):
    """Compress the files of a checkpoint and write the frame of its message.

    Parameters
    ----------
    source, options, tokenizer
        See `open_checkpoint`.
    codec : dict
        ``tool`` (a list: the best is taken), ``level`` and ``split_planes`` of the compressors.
    contexts : dict
        See `tokenbounds.codecs.decode.encode_model`.
    progress : bool
        See `tokenbounds.codecs.compressors.size_record`.

    Returns
    -------
    frame : bytes
    record : dict
        The return value of `tokenbounds.codecs.compressors.size_record`.
    """
    config, files = open_checkpoint(source, options, tokenizer)
    compressors = [Compressor(tool, codec.get("level"), codec["split_planes"]) for tool in codec["tool"]]
    record = size_record(files, compressors, progress=progress)
    described = {
        "hypothesis": config,
        "contexts": contexts,
        "files": record["files"],
        "compressed_bytes": record["bytes"],
    }
    check_config(described, "zip")
    chosen = {"kind": "zip", **{key: record[key] for key in ("tool", "level", "split_planes")}}
    return encode({}, described, codec=chosen, layout=[]), record


def check_files(message, folder, name="message"):
    """Refuse a folder that does not hold the files of a ``zip`` message, byte for byte; the `InputError`
    names the first that differs."""
    for entry in message.config["files"]:
        path = _sized(folder, entry, name)
        _check_hash(path, sha256_file(path), entry["sha256"], name)


def compressed_again(message, folder, name="message"):
    """Compress the files of a ``zip`` message again and count the bytes; an `InputError` if they are not its
    files, or not those that its model consists of."""
    compressor = Compressor(**{key: message.codec[key] for key in ("tool", "level", "split_planes")})
    with linked_folder(message, folder, name) as paths:
        record = size_record(paths, [compressor])
    for measured, entry in zip(record["files"], message.config["files"], strict=True):
        _check_hash(Path(folder) / entry["name"], measured["sha256"], entry["sha256"], name)
    return record["bytes"]


@contextlib.contextmanager
def linked_folder(message, folder, name="message"):
    """Yield the paths of links to the files of a ``zip`` message in a temporary folder that holds nothing
    else.

    Errors name `folder` in its place. Files that are open or mapped stay so after its removal.

    Raises
    ------
    InputError
        A file is missing or of another size; the files are not exactly those that the checkpoint consists of.
    """
    entries = message.config["files"]
    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as temporary:
        try:
            for entry in entries:
                (Path(temporary) / entry["name"]).symlink_to(_sized(folder, entry, name).resolve())
            family = message.config["hypothesis"]["family"]
            source = Path(temporary, entries[0]["name"]) if family == "gguf" else temporary
            paths = _files_of(source, family)
            named, needed = [entry["name"] for entry in entries], [path.name for path in paths]
            if named != needed:
                stated = ", ".join(named)
                raise InputError(
                    f"{name}: files {stated:.200}; expected {', '.join(needed):.200}, which are read"
                )
            yield paths
        except InputError as error:
            raise InputError(str(error).replace(temporary, str(folder))) from None


def _sized(folder, entry, name):
    """Return the path of a file that a ``zip`` message names; an `InputError` if it has another size."""
    if Path(entry["name"]).name != entry["name"]:
        raise InputError(f"{name}: file {entry['name']!r}; expected a name without a folder")
    path = Path(folder) / entry["name"]
    size = file_size(path)
    if size != entry["bytes"]:
        about = f"{size} bytes, expected {entry['bytes']}"
        raise InputError(f"{path}: not the file that {name} is about ({about})")
    return path


def _check_hash(path, digest, expected, name):
    if digest != expected:
        hashes = f"sha256 {digest[:12]}..., expected {expected[:12]}..."
        raise InputError(f"{path}: not the file that {name} is about ({hashes})")


def published_model(message, folder, name="message", device="cpu"):
    """Load the model of a ``zip`` message, in float32 and evaluation mode, from files that `check_files` has
    checked, and from no others."""
    config = message.config["hypothesis"]
    canonical(PublishedConfig, config, name)
    with linked_folder(message, folder, name) as paths:
        if config["family"] == "quip":
            checkpoint = QuipCheckpoint(paths[0].parent, resident=_fits(message, device))
            return QuipLlama(checkpoint, config["vocab_size"]).eval()
        facts = {key: value for key, value in config.items() if key != "family"}
        return read_source(paths[0] if config["family"] == "gguf" else paths[0].parent, **facts)[0]


def _fits(message, device):
    """Tell whether packed weights should be kept on the device: on a GPU that has room for a dense layer, the
    head and activations besides."""
    device = torch.device(device)
    if device.type != "cuda":
        return False  # the system keeps the pages of the files as memory allows
    free, _ = torch.cuda.mem_get_info(device)
    return sum(entry["bytes"] for entry in message.config["files"]) < free - (16 << 30)
