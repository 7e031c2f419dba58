"""Size of a checkpoint under a real compressor: C(h) of a model that is too large to code otherwise is 8 times these bytes.

The message is the output of ``gzip``, ``zstd`` or ``xz`` on one byte stream, which is made as it is read; only its length is kept.

One file
    The file itself: ``gzip -n -c FILE | wc -c`` gives the same number.
Several files
    A tar archive in GNU format (ustar cannot hold 8 GiB in a member) of the files in the given order: mode 0644, time 0, owner 0 without
    a name, padded with zeros to a multiple of 10,240 bytes. It is what Python's `tarfile` writes with these settings, and what
    ``tar --format=gnu --mode=0644 --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - FILE...`` does.
Byte planes (`split_planes`)
    In every file named ``*.safetensors`` each tensor of a 2-byte type is cut into pieces of 4 MiB (the last is shorter), and each piece
    becomes its low bytes followed by its high bytes. The header and the other tensors stay, so that the length does too. `join_planes` is
    the inverse; without one, the size would not be that of a message.

`stream` gives the bytes that are compressed: `stream` of the same files, sent through the tool, is the message.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from tokenbounds.errors import InputError

log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_PLANE_BYTES = 1 << 22  # of a tensor per piece: part of the format
_TWO_BYTE_TYPES = ("BF16", "F16", "I16", "U16")
_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it
_LOG_SECONDS = 30
# What a user may have set for the tools would change the size.
_IGNORED_VARIABLES = ("GZIP", "XZ_OPT", "XZ_DEFAULTS", "ZSTD_CLEVEL", "ZSTD_NBTHREADS")


@dataclasses.dataclass(frozen=True)
class _Tool:
    command: tuple
    levels: range
    default_level: int
    package: str  # of Debian


# One thread: the number of threads of a machine would decide how xz (from 5.6 on) and zstd cut their input, and so the size.
_TOOLS = {
    "gzip": _Tool(("gzip", "-n", "-c"), range(1, 10), 6, "gzip"),
    "zstd": _Tool(("zstd", "-q", "-c", "--single-thread"), range(1, 20), 19, "zstd"),
    "xz": _Tool(("xz", "-q", "-c", "--threads=1"), range(10), 6, "xz-utils"),
}


@dataclasses.dataclass(frozen=True)
class Compressor:
    """A tool and its options.

    Attributes
    ----------
    tool : {"gzip", "zstd", "xz"}
    level : int, optional
        gzip 1 to 9, zstd 1 to 19, xz 0 to 9. Default: 6, 19, 6; for gzip and xz those are the commands' own.
    split_planes : bool
        Split safetensors files into byte planes first; see the module.

    Raises
    ------
    InputError
        Unknown tool or level.
    """

    tool: str
    level: int | None = None
    split_planes: bool = False

    def __post_init__(self):
        if self.tool not in _TOOLS:
            raise InputError(f"compressor {self.tool!r}; expected one of {', '.join(_TOOLS)}")
        known = _TOOLS[self.tool]
        if self.level is None:
            object.__setattr__(self, "level", known.default_level)
        if type(self.level) is not int or self.level not in known.levels:
            raise InputError(f"level of {self.tool} is {self.level!r}; expected {known.levels[0]} to {known.levels[-1]}")

    def command(self):
        """The command line, which reads standard input and writes standard output; an `InputError` if the tool is not installed."""
        known = _TOOLS[self.tool]
        if shutil.which(self.tool) is None:
            raise InputError(f"compressor '{self.tool}' is not installed; expected it on the PATH (Debian's package {known.package})")
        return [*known.command, f"-{self.level}"]

    def version(self):
        """First line of what the tool says of its version."""
        finished = subprocess.run([self.command()[0], "--version"], capture_output=True, text=True, errors="replace", env=_environment())
        return next((line.strip("* ") for line in (finished.stdout + finished.stderr).splitlines() if line), "unknown")


class ZipCodec:
    """Files that the frame's config names, as a compressor makes them smaller: the frame holds how many bytes, and not these."""

    defaults: ClassVar = {"tool": "gzip", "level": None, "split_planes": False}

    def check(self, options):
        Compressor(**{key: options[key] for key in self.defaults})

    def write(self, writer, tensors, options):
        if tensors:
            raise InputError(f"tensor {next(iter(tensors))!r}; expected none for codec 'zip', whose message is files")

    def read(self, reader, layout, options):
        return []


# ---------------------------------------------------------------- sizes


def compressed_bytes(paths, tool, *, level=None, split_planes=False, names=None, progress=True):
    """Bytes that a compressor makes of files. Neither they nor the archive of several files are stored, on disk or in memory.

    Parameters
    ----------
    paths : path, or sequence of paths
        Everything that is needed to rebuild the hypothesis, in a fixed order: also the configuration, where that is a file.
    tool, level, split_planes
        As for `Compressor`.
    names : sequence of str, optional
        Names of the files in the archive of several; default their last parts.
    progress : bool
        Whether to show the bytes read: a bar on a terminal, else a log line every half minute.

    Returns
    -------
    int
        The same for the same bytes under the same names and the same version of the tool.

    Raises
    ------
    InputError
        One line: a tool that is not installed or fails, a file that is missing, cannot be read or changes its size meanwhile, a damaged
        safetensors file where planes are to be split, two files of one name.
    """
    return size_record(paths, [Compressor(tool, level, split_planes)], names=names, progress=progress)["bytes"]


def best_of(paths, compressors, *, names=None, progress=True):
    """The smallest size that one of several compressors makes of files.

    Parameters
    ----------
    paths, names, progress
        As for `compressed_bytes`.
    compressors : sequence of str or Compressor
        All that are tried, fixed before any size was seen. A string is a tool with its defaults.

    Returns
    -------
    bytes : int
    compressor : str or Compressor
        The first in the sequence that gives this size, as it was given.
    extra_bits : float
        Price of the choice: log2 of the number tried (docs/theory.md, section 2), to be paid besides C(h).
    """
    compressors = list(compressors)
    record = size_record(paths, compressors, names=names, progress=progress)
    sizes = [tried["bytes"] for tried in record["tried"]]
    return record["bytes"], compressors[sizes.index(record["bytes"])], record["extra_bits"]


def size_record(paths, compressors, *, names=None, progress=True):
    """As `best_of` (one compressor is a choice of one, which costs nothing), with everything there is to say of the size, for JSON.

    The hashes are those of the bytes that were compressed: they are taken as these are read, once for each compressor.

    Parameters
    ----------
    paths, names, progress
        As for `compressed_bytes`.
    compressors : sequence of str or Compressor
        As for `best_of`.

    Returns
    -------
    dict
        ``bytes``; ``bits``, 8 times as many; ``tool``, ``level``, ``split_planes`` and ``tool_version`` of the smallest; ``container``
        (``"tar"``, or None for one file); ``files``, a list of ``{name, bytes, sha256}``; ``tried``, a list of
        ``{tool, level, split_planes, bytes}``; ``extra_bits``, log2 of the number tried, which ``bits`` does not hold.
    """
    compressors = [Compressor(entry) if isinstance(entry, str) else entry for entry in compressors]
    if not compressors:
        raise InputError("no compressors given; expected at least one")
    for compressor in compressors:  # before hours are spent on the first
        compressor.command()
        _files(paths, names, compressor.split_planes)
    tried, hashes = [], None
    for compressor in compressors:
        files = _files(paths, names, compressor.split_planes)
        with _Progress(compressor.tool, sum(file.bytes for file in files), progress) as bar:
            size = _output_bytes(compressor.command(), _stream(files, bar.update))
        found = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
        for file, first in zip(files, hashes or found, strict=True):
            if file.sha256 != first["sha256"]:
                raise InputError(f"{file.path}: changed between two compressors; expected the same content")
        tried.append({**dataclasses.asdict(compressor), "bytes": size})
        hashes = found
    best = min(tried, key=lambda entry: entry["bytes"])
    return {
        **best,
        "bits": 8 * best["bytes"],
        "tool_version": compressors[tried.index(best)].version(),
        "container": "tar" if len(hashes) > 1 else None,
        "files": hashes,
        "tried": tried,
        "extra_bits": math.log2(len(tried)),
    }


# ---------------------------------------------------------------- the byte stream


def stream(paths, *, split_planes=False, names=None):
    """The bytes that are compressed, as an iterator of blocks. Parameters and errors as for `compressed_bytes`."""
    return _stream(_files(paths, names, split_planes))


def join_planes(source, target):
    """Undo `split_planes` for one file.

    Parameters
    ----------
    source : binary file
        What `stream` gave for one file, or the member of its archive; read from where it stands to its end, in pieces. Its ``read(n)``
        must return n bytes unless the end is near, as a buffered file's does.
    target : binary file
        Where the safetensors file is written.

    Raises
    ------
    InputError
        The source is not a whole safetensors file.
    """
    for block in _planes(source.read, "byte planes", join=True):
        target.write(block)


@dataclasses.dataclass
class _File:
    path: Path
    name: str
    bytes: int
    is_split: bool
    sha256: str | None = None  # once it has been read


def _files(paths, names, split_planes):
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
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file to compress") from None
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file; expected a file to compress")
        if not name or names.count(name) > 1:
            raise InputError(f"{path}: its name in the archive, {name!r}, is empty or another file's too; expected one of its own")
        files.append(_File(path, name, status.st_size, split_planes and name.endswith(".safetensors")))
    if split_planes and not any(file.is_split for file in files):
        raise InputError(f"{files[0].path}: its name does not end in .safetensors, nor another's; expected one to split into byte planes")
    return files


def _stream(files, update=lambda count: None):
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
    """Blocks of a file, which is hashed and checked to have the announced number of bytes as they are read."""
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
        raise InputError(f"{file.path}: cannot be read ({error.strerror}); expected a file to compress") from None
    with handle:
        yield from _planes(read, file.path) if file.is_split else iter(lambda: read(_BLOCK_BYTES), b"")
    if count != file.bytes:
        raise InputError(f"{file.path}: {count} bytes read where there were {file.bytes} at first; expected a file that does not change")
    file.sha256 = digest.hexdigest()


def _planes(read, name, join=False):
    """Blocks of a safetensors file with its 2-byte tensors split into byte planes, or with `join` the reverse."""

    def take(size):
        block = read(size)
        if len(block) != size:
            raise InputError(f"{name}: ends {size - len(block)} bytes early; expected a whole safetensors file")
        return block

    prefix = take(8)
    header_bytes = int.from_bytes(prefix, "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(f"{name}: header of {header_bytes} bytes; expected a safetensors file (at most {_MAX_HEADER_BYTES})")
    header = take(header_bytes)
    yield prefix + header
    for begin, end, dtype in _segments(header, name):
        for start in range(begin, end, _PLANE_BYTES):
            block = take(min(_PLANE_BYTES, end - start))
            if dtype in _TWO_BYTE_TYPES:
                block = np.frombuffer(block, np.uint8).reshape((2, -1) if join else (-1, 2)).T.tobytes()
            yield block
    if read(1):
        raise InputError(f"{name}: bytes after the last tensor; expected a safetensors file, whose header tells of them all")


def _segments(header, name):
    """(begin, end, type) of each tensor, in bytes after the header, in the order in which they lie there without a gap."""
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


# ---------------------------------------------------------------- the compressor


def _output_bytes(command, blocks):
    """Number of bytes that a command writes when it is given `blocks`; the process has ended when this returns or raises."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.enter_context(theirs)
        # Every read gets all it asks for, as from a file. A pipe may give less, and gzip then moves its window at another byte and finds
        # other matches: the size would depend on the timing.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2**31 - 1)
        pipes = {"stdin": theirs, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = stack.enter_context(subprocess.Popen(command, env=_environment(), **pipes))
        readers = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2))
        stack.enter_context(_killed_on_error(process))
        stack.enter_context(ours)  # the last to enter is the first to close: whatever reads from it then ends, and the readers with it
        theirs.close()
        size, said = readers.submit(_count, process.stdout), readers.submit(process.stderr.read)
        sent = True
        for block in blocks:
            try:
                ours.sendall(block)
            except (BrokenPipeError, ConnectionResetError):
                sent = False
                break
        ours.shutdown(socket.SHUT_WR)
        size, said = size.result(), " ".join(said.result().decode(errors="replace").split())
        status = process.wait()
        # Bytes that nobody had read when the other end was closed leave an error here: the size would be that of less than the files.
        sent = sent and not ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status or not sent:
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        raise InputError(f"{' '.join(command)}: {ended}{'' if sent else ' before it had read everything'} ({said or 'without a word'})")
    return size


@contextlib.contextmanager
def _killed_on_error(process):
    try:
        yield
    except BaseException:
        process.kill()
        raise


def _count(pipe):
    return sum(len(block) for block in iter(lambda: pipe.read(_BLOCK_BYTES), b""))


def _environment():
    return {key: value for key, value in os.environ.items() if key not in _IGNORED_VARIABLES} | {"LC_ALL": "C"}


class _Progress:
    """A bar on a terminal, otherwise a log line every half minute."""

    def __init__(self, tool, total, shown):
        self.tool, self.total, self.shown, self.done = tool, total, shown, 0
        self.bar = tqdm(total=total, desc=tool, unit="B", unit_scale=True, disable=None if shown else True)
        self.begin = self.logged = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self, count):
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        if self.shown and self.bar.disable and now - self.logged > _LOG_SECONDS:
            self.logged, speed = now, self.done / (now - self.begin)
            left = (self.total - self.done) / speed
            log.info("%s: %.2f of %.2f GB, %.1f MB/s, %.0f s left", self.tool, self.done / 1e9, self.total / 1e9, speed / 1e6, left)
