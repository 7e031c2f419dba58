"""Byte stream of a checkpoint's files: a file itself or a tar archive of several, perhaps in byte planes.

Byte planes put the low and high bytes of a tensor of a 2-byte type apart, in pieces of 4 MiB::

    l0 h0 l1 h1 l2 h2 ...   becomes   l0 l1 l2 ... h0 h1 h2 ...

Header and other tensors stay as in the file, so the length stays too. `tokenbounds.codecs.compressors` states
the whole format.
"""

import dataclasses
import hashlib
import json
import os
import stat
import tarfile
from pathlib import Path

import numpy as np

from tokenbounds.errors import InputError

BLOCK_BYTES = 1 << 20
_PLANE_BYTES = 1 << 22  # of a tensor per piece: part of the format
_TWO_BYTE_TYPES = ("BF16", "F16", "I16", "U16")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library


def stream(paths, *, split_planes=False, names=None):
    """Return the bytes that are compressed, as an iterator of blocks. Parameters and errors are those of
    `tokenbounds.codecs.compressors.compressed_bytes`."""
    return blocks_of(files_of(paths, names, split_planes))


def join_planes(source, target):
    """Undo `split_planes` for one file.

    Parameters
    ----------
    source : binary file
        Output of `stream` for one file, or the member of its archive; read from its position to its end,
        in pieces. Its ``read(n)`` must return n bytes unless the end is near, as a buffered file's does.
    target : binary file
        The safetensors file to write.

    Raises
    ------
    InputError
        The source is not a whole safetensors file.
    """
    for block in _planes(source.read, "byte planes", join=True):
        target.write(block)


@dataclasses.dataclass
class _File:
    """A file of the stream: its path, name in an archive, and size."""

    path: Path
    name: str
    bytes: int
    is_split: bool
    sha256: str | None = None  # once it has been read


def files_of(paths, names, split_planes):
    """Check the files of a stream and list them with their sizes."""
    paths = [Path(paths)] if isinstance(paths, str | os.PathLike) else [Path(path) for path in paths]
    names = [path.name for path in paths] if names is None else list(names)
    if not paths:
        raise InputError("no files to compress; expected at least one")
    if len(names) != len(paths):
        raise InputError(f"{len(names)} names for {len(paths)} files to compress; expected one each")
    files = []
    for path, name in zip(paths, names, strict=True):
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); expected a file to compress"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file; expected a file to compress")
        if not name or names.count(name) > 1:
            taken = f"its name in the archive, {name!r}, is empty or another file's too"
            raise InputError(f"{path}: {taken}; expected one of its own")
        files.append(_File(path, name, status.st_size, split_planes and name.endswith(".safetensors")))
    if split_planes and not any(file.is_split for file in files):
        reason = "its name does not end in .safetensors, nor another's"
        raise InputError(f"{files[0].path}: {reason}; expected one to split into byte planes")
    return files


def blocks_of(files, update=lambda count: None):
    """Yield the blocks of a stream of checked files; `update` gets the number of bytes of each read."""
    if len(files) == 1:
        yield from _content(files[0], update)
        return
    written = 0
    for file in files:
        member = tarfile.TarInfo(file.name)
        member.size = file.bytes  # the rest is zero or empty by default, and the mode 0644
        header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        padding = bytes(-file.bytes % tarfile.BLOCKSIZE)
        yield header
        yield from _content(file, update)
        yield padding
        written += len(header) + file.bytes + len(padding)
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(written + end) % tarfile.RECORDSIZE)


def _content(file, update):
    """Yield the blocks of a file; it is hashed meanwhile, and must have as many bytes as before."""
    digest, count = hashlib.sha256(), 0

    def read(size):
        nonlocal count
        try:
            block = handle.read(size)
        except OSError as error:
            raise InputError(f"{file.path}: cannot be read after {count} bytes ({error.strerror})") from None
        digest.update(block)
        count += len(block)
        update(len(block))
        return block

    try:
        handle = open(file.path, "rb")  # noqa: SIM115 (an error while blocks are handed out is not one of opening)
    except OSError as error:
        raise InputError(
            f"{file.path}: cannot be read ({error.strerror}); expected a file to compress"
        ) from None
    with handle:
        yield from _planes(read, file.path) if file.is_split else iter(lambda: read(BLOCK_BYTES), b"")
    if count != file.bytes:
        changed = f"{count} bytes read where there were {file.bytes} at first"
        raise InputError(f"{file.path}: {changed}; expected a file that does not change")
    file.sha256 = digest.hexdigest()


def _planes(read, name, join=False):
    """Yield the blocks of a safetensors file with its 2-byte tensors split into byte planes, or with `join`
    joined again."""

    def take(size):
        block = read(size)
        if len(block) != size:
            raise InputError(
                f"{name}: ends {size - len(block)} bytes early; expected a whole safetensors file"
            )
        return block

    prefix = take(8)
    header_bytes = int.from_bytes(prefix, "little")
    if header_bytes > _MAX_HEADER_BYTES:
        limit = f"at most {_MAX_HEADER_BYTES}"
        raise InputError(f"{name}: header of {header_bytes} bytes; expected a safetensors file ({limit})")
    header = take(header_bytes)
    yield prefix + header
    for begin, end, dtype in _segments(header, name):
        for start in range(begin, end, _PLANE_BYTES):
            block = take(min(_PLANE_BYTES, end - start))
            if dtype in _TWO_BYTE_TYPES:
                block = np.frombuffer(block, np.uint8).reshape((2, -1) if join else (-1, 2)).T.tobytes()
            yield block
    if read(1):
        expected = "a safetensors file, whose header tells of them all"
        raise InputError(f"{name}: bytes after the last tensor; expected {expected}")


def _segments(header, name):
    """List (begin, end, type) of each tensor, in bytes after the header, in their order there, which has no
    gaps."""
    try:
        entries = {key: entry for key, entry in json.loads(header).items() if key != "__metadata__"}
        segments = sorted((*entry["data_offsets"], entry["dtype"]) for entry in entries.values())
        position = 0
        for begin, end, dtype in segments:
            if type(begin) is not int or type(end) is not int or begin != position or end < begin:
                raise ValueError(f"a tensor at {begin} to {end} where the last one ended at {position}")
            if dtype in _TWO_BYTE_TYPES and (end - begin) % 2:
                raise ValueError(f"a tensor of type {dtype} with {end - begin} bytes")
            position = end
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: not a valid safetensors header ({error})") from None
    return segments
