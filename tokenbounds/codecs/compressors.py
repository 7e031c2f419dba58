"""Size of a checkpoint under a real compressor: 8 times these bytes are C(h) of a model too large for the
other codecs.

The message is the output of ``gzip``, ``zstd`` or ``xz`` on one byte stream, which is produced block by
block; only its length is kept.

One file
    The file itself: ``gzip -n -c FILE | wc -c`` gives the same number.
Several files
    A tar archive in GNU format (ustar cannot hold 8 GiB in a member) of the files in the given order: mode
    0644, time 0, owner 0 without a name, padded with zeros to a multiple of 10,240 bytes. Python's
    `tarfile` with these settings writes the same, and so does ``tar --format=gnu --mode=0644 --mtime=@0
    --owner=0 --group=0 --numeric-owner -cf - FILE...``.
Byte planes (`split_planes`)
    In every file named ``*.safetensors`` each tensor of a 2-byte type is cut into pieces of 4 MiB (the last
    is shorter), and each piece becomes its low bytes followed by its high bytes. The header and the other
    tensors stay, so that the length does too. `tokenbounds.codecs.byte_stream.join_planes` is the inverse;
    without one, the size would not be that of a message.

`tokenbounds.codecs.byte_stream.stream` returns the bytes that are compressed: the tool's output for this
stream is the message.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import math
import os
import shutil
import socket
import subprocess
import time

from tqdm import tqdm

from tokenbounds.codecs.byte_stream import BLOCK_BYTES, blocks_of, files_of
from tokenbounds.errors import InputError

log = logging.getLogger(__name__)
_LOG_SECONDS = 30
# Options of the tools that a user may have set: they would change the size.
_IGNORED_VARIABLES = ("GZIP", "XZ_OPT", "XZ_DEFAULTS", "ZSTD_CLEVEL", "ZSTD_NBTHREADS")


@dataclasses.dataclass(frozen=True)
class _Tool:
    command: tuple
    levels: range
    default_level: int
    planes_level: int  # default for byte planes
    package: str  # name in Debian


# One thread: xz (from 5.6 on) and zstd cut their input by the number of threads, and the size would depend on
# the machine. Byte planes of weights repeat next to no strings: codes of single bytes compress them, which
# level 1 of zstd has too; level 19 takes a hundred times as long for 1% of the size (docs/performance.md).
_TOOLS = {
    "gzip": _Tool(("gzip", "-n", "-c"), range(1, 10), 6, 6, "gzip"),
    "zstd": _Tool(("zstd", "-q", "-c", "--single-thread"), range(1, 20), 19, 1, "zstd"),
    "xz": _Tool(("xz", "-q", "-c", "--threads=1"), range(10), 6, 6, "xz-utils"),
}


@dataclasses.dataclass(frozen=True)
class Compressor:
    """A tool and its options.

    Attributes
    ----------
    tool : {"gzip", "zstd", "xz"}
    level : int, optional
        gzip 1 to 9, zstd 1 to 19, xz 0 to 9. Default: 6, 19 (1 for byte planes), 6; those of gzip and xz are
        the commands' own.
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
            default = known.planes_level if self.split_planes else known.default_level
            object.__setattr__(self, "level", default)
        if type(self.level) is not int or self.level not in known.levels:
            raise InputError(
                f"level of {self.tool} is {self.level!r}; expected {known.levels[0]} to {known.levels[-1]}"
            )

    def command(self):
        """Return the command line, which reads standard input and writes standard output; an `InputError` if
        the tool is not installed."""
        known = _TOOLS[self.tool]
        if shutil.which(self.tool) is None:
            expected = f"it on the PATH (Debian's package {known.package})"
            raise InputError(f"compressor '{self.tool}' is not installed; expected {expected}")
        return [*known.command, f"-{self.level}"]

    def version(self):
        """Return the first line of the tool's output for ``--version``."""
        finished = subprocess.run(
            [self.command()[0], "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(),
        )
        return next(
            (line.strip("* ") for line in (finished.stdout + finished.stderr).splitlines() if line), "unknown"
        )


def compressed_bytes(paths, tool, *, level=None, split_planes=False, names=None, progress=True):
    """Count the bytes of a compressor's output for files. Neither this output nor an archive of several
    files is stored, on disk or in memory.

    Parameters
    ----------
    paths : path, or sequence of paths
        All files that are needed to rebuild the hypothesis, in a fixed order: also the configuration, if it
        is a file.
    tool, level, split_planes
        See `Compressor`.
    names : sequence of str, optional
        Names of the files in the archive of several; default their last parts.
    progress : bool
        Whether to show the number of bytes read: a bar on a terminal, else a log line every half minute.

    Returns
    -------
    int
        The same for the same bytes under the same names and the same version of the tool.

    Raises
    ------
    InputError
        One line: a tool that is not installed or fails, a file that is missing, cannot be read or changes its
        size meanwhile, a damaged safetensors file whose planes are to be split, two files of one name.
    """
    return size_record(paths, [Compressor(tool, level, split_planes)], names=names, progress=progress)[
        "bytes"
    ]


def best_of(paths, compressors, *, names=None, progress=True):
    """Compress files with several compressors and choose the smallest result.

    Parameters
    ----------
    paths, names, progress
        See `compressed_bytes`.
    compressors : sequence of str or Compressor
        All compressors to try, fixed before any size was seen. A string is a tool with its defaults.

    Returns
    -------
    bytes : int
    compressor : str or Compressor
        The first in the sequence that gives this size, as it was given.
    extra_bits : float
        Complexity term of the choice: log2 of the number tried (docs/theory.md, section 2), to be added to
        C(h).
    """
    compressors = list(compressors)
    record = size_record(paths, compressors, names=names, progress=progress)
    sizes = [tried["bytes"] for tried in record["tried"]]
    return record["bytes"], compressors[sizes.index(record["bytes"])], record["extra_bits"]


def size_record(paths, compressors, *, names=None, progress=True):
    """Compress files with several compressors and record the smallest size and its origin, for JSON.

    One compressor is a choice of one, which costs nothing. The hashes are those of the compressed bytes: they
    are computed while the files are read, once for each compressor.

    Parameters
    ----------
    paths, names, progress
        See `compressed_bytes`.
    compressors : sequence of str or Compressor
        See `best_of`.

    Returns
    -------
    dict
        ``bytes``; ``bits``, 8 times as many; ``tool``, ``level``, ``split_planes`` and ``tool_version`` of
        the smallest; ``container`` (``"tar"``, or None for one file); ``files``, a list of ``{name, bytes,
        sha256}``; ``tried``, a list of ``{tool, level, split_planes, bytes}``; ``extra_bits``, log2 of the
        number tried, which ``bits`` does not hold.
    """
    compressors = [Compressor(entry) if isinstance(entry, str) else entry for entry in compressors]
    if not compressors:
        raise InputError("no compressors given; expected at least one")
    for compressor in compressors:  # before hours are spent on the first
        compressor.command()
        files_of(paths, names, compressor.split_planes)
    tried: list[dict] = []
    hashes: list[dict] = []
    for compressor in compressors:
        files = files_of(paths, names, compressor.split_planes)
        with _Progress(compressor.tool, sum(file.bytes for file in files), progress) as bar:
            size = _output_bytes(compressor.command(), blocks_of(files, bar.update))
        entries = [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
        for file, first in zip(files, hashes or entries, strict=True):
            if file.sha256 != first["sha256"]:
                raise InputError(f"{file.path}: changed between two compressors; expected the same content")
        tried.append({**dataclasses.asdict(compressor), "bytes": size})
        hashes = entries
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


def _output_bytes(command, blocks):
    """Count the bytes that a command writes for the input `blocks`; the process has ended when this returns
    or raises."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.enter_context(theirs)
        # Every read gets all it asks for, as from a file. A pipe may give less, and gzip then moves its
        # window at another byte and finds other matches: the size would depend on the timing.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2**31 - 1)
        pipe = subprocess.PIPE
        process = stack.enter_context(
            subprocess.Popen(command, env=_environment(), stdin=theirs.fileno(), stdout=pipe, stderr=pipe)
        )
        readers = stack.enter_context(concurrent.futures.ThreadPoolExecutor(2))
        stack.enter_context(_killed_on_error(process))
        # The last to enter is the first to close: its reader ends then, and the threads that read the output.
        stack.enter_context(ours)
        theirs.close()
        counting, reading = readers.submit(_count, process.stdout), readers.submit(_words, process.stderr)
        sent = True
        for block in blocks:
            try:
                ours.sendall(block)
            except (BrokenPipeError, ConnectionResetError):
                sent = False
                break
        ours.shutdown(socket.SHUT_WR)
        size, said = counting.result(), reading.result()
        status = process.wait()
        # Bytes that were not read before the other end was closed leave an error here: the size would be that
        # of a part of the files.
        sent = sent and not ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status or not sent:
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        early = "" if sent else " before it had read everything"
        raise InputError(f"{' '.join(command)}: {ended}{early} ({said or 'without a word'})")
    return size


@contextlib.contextmanager
def _killed_on_error(process):
    try:
        yield
    except BaseException:
        process.kill()
        raise


def _words(pipe):
    return " ".join(pipe.read().decode(errors="replace").split())


def _count(pipe):
    return sum(len(block) for block in iter(lambda: pipe.read(BLOCK_BYTES), b""))


def _environment():
    return {key: value for key, value in os.environ.items() if key not in _IGNORED_VARIABLES} | {
        "LC_ALL": "C"
    }


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
            log.info(
                "%s: %.2f of %.2f GB, %.1f MB/s, %.0f s left",
                self.tool,
                self.done / 1e9,
                self.total / 1e9,
                speed / 1e6,
                left,
            )
