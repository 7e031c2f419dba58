"""The process that checks damaged runs: little memory, and a record of every file that it opens."""

import functools
import os
import re
import resource
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import torch

from tokenbounds.certificates.commit import commitment_of
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.verify import taken_as_stated, verify_certificate
from tokenbounds.codecs import frame
from tokenbounds.errors import InputError
from tokenbounds.io.provenance import git_commit

MEMORY_BYTES = 2 << 30
_LONGEST = 500
_NO_MEMORY = re.compile(
    "MemoryError|[Uu]nable to allocate|can't allocate|bad_alloc|malloc of size|out of memory"
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_COMPRESSORS = ("gzip", "xz", "zstd", "brotli", "bzip2")  # that measure the size of published files
_FOREIGN = ("subprocess.Popen", "os.system", "os.exec", "socket.connect", "os.posix_spawn")


class Watch:
    """Record, through an audit hook of Python, what is opened outside the allowed folders, what is written
    outside the temporary one, and any process or connection that is started."""

    def __init__(self, allowed, temporary):
        self.allowed = [os.path.realpath(path) for path in allowed]
        self.temporary = os.path.realpath(temporary)
        self.active, self.found = False, []
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if not self.active:
            return
        self.active = False  # what follows opens nothing that counts
        try:
            if event == "open":
                self._open(*arguments)
            elif event in _FOREIGN and arguments[0] not in _COMPRESSORS:
                self.found.append(f"{event} {str(arguments)[:100]}")
            elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate"):
                # a link's second argument is where it stands
                place = arguments[1] if event == "os.symlink" else arguments[0]
                if arguments[-1] in (None, -1):  # else the name is one in an open folder, of shutil.rmtree
                    self._written(place, event)
        finally:
            self.active = True

    def _open(self, path, mode, flags):
        if isinstance(path, int):
            return
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & _WRITES:
            self._written(path, "write")
        else:
            place = os.path.realpath(os.fsdecode(path))
            if not self._within(place, [*self.allowed, self.temporary]):
                self.found.append(f"read {place}"[:200])

    def _written(self, path, event):
        # as it stands, its folder resolved: links are put in the temporary folder, and may lead elsewhere
        path = os.path.abspath(os.fsdecode(path))
        place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not self._within(place, [self.temporary]) and path != os.devnull:
            self.found.append(f"{event} {place}"[:200])

    @staticmethod
    def _within(place, folders):
        return any(place == folder or place.startswith(folder.rstrip("/") + "/") for folder in folders)


def serve(connection, copies, temporary, certificates):
    """Check certificates that come over a connection, one after the other, until None comes.

    Parameters
    ----------
    connection : multiprocessing.connection.Connection
    copies : list of path
        Folders that may be read.
    temporary : path
        Folder for temporary files, the only one that may be written to.
    certificates : list of path
        Whole ones: checked first, so that all that is loaded late is loaded before memory is limited.
    """
    log = open(Path(temporary) / "errors.log", "w")  # noqa: SIM115, it stays open
    os.dup2(log.fileno(), 2)  # libraries in Rust print panics
    tempfile.tempdir = str(temporary)
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_memory_pool(pa.system_memory_pool())
    git_commit()
    # Most cases leave the message's header as it is, and reading it takes longer than all else.
    unpacked = functools.lru_cache(64)(frame.unpack)
    frame.unpack = lambda data, most: unpacked(bytes(data), most)
    for path in certificates:
        for check in verify_certificate(path, rescored=1, retokenized=1):
            if not check.held:
                connection.send({"failed": f"{path}: {check.name}: {check.detail}"})
                return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    package = Path(__file__).resolve().parents[2]
    read = [*copies, sys.prefix, sys.base_prefix, package / "tokenbounds", "/proc", "/sys", "/dev/urandom"]
    watch = Watch(read, temporary)
    before = _peak()
    connection.send({"ready": True})
    while (task := connection.recv()) is not None:
        watch.found, watch.active = [], True
        result = _outcome(*task)
        watch.active = False
        result["foreign"] = watch.found[:3]
        result["peak"] = _peak() - before
        connection.send(result)


def _peak():
    """Return the most memory that this process has held, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _outcome(path, rescored, retokenized):
    """Check one certificate.

    Returns
    -------
    dict
        ``refused`` (the line, or None), ``failed`` (names and details of checks), ``wrong`` (what must not
        be).
    """
    refused, failed, wrong = None, [], []
    try:
        for check in verify_certificate(path, rescored=rescored, retokenized=retokenized):
            wrong += _not_a_line(check.detail)
            if not check.held:
                failed.append((check.name, check.detail))
    except InputError as error:
        refused = str(error)
        wrong += _not_a_line(refused)
    except BaseException as error:
        wrong.append(f"verify: {type(error).__name__}: {str(error)[:200]}")
    if os.path.islink(path):  # whoever names it to `show` wants it followed
        return {"refused": refused, "failed": failed, "wrong": wrong}
    try:
        certificate = read_certificate(path)
    except InputError as error:
        return {"refused": refused, "failed": failed, "wrong": wrong + _not_a_line(str(error))}
    except BaseException as error:
        wrong.append(f"read: {type(error).__name__}: {str(error)[:200]}")
        return {"refused": refused, "failed": failed, "wrong": wrong}
    for name, describe in (
        ("describe", describe_certificate),
        ("taken_as_stated", lambda found: "\n".join(taken_as_stated(found))),
        ("commitment_of", lambda found: commitment_of(found, "a beacon")),
    ):
        try:
            text = describe(certificate)
            if not all(character.isprintable() or character == "\n" for character in text):
                wrong.append(f"{name}: prints {ascii(text)[:100]}")
        except InputError as error:
            wrong += _not_a_line(str(error))
        except BaseException as error:
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    return {"refused": refused, "failed": failed, "wrong": wrong}


def _not_a_line(text):
    if _NO_MEMORY.search(text):
        return [f"asks for too much memory: {ascii(text)[:300]}"]
    if len(text) > _LONGEST or "\n" in text or not text:
        return [f"not a line: {ascii(text)[:100]}"]
    return [] if text.isprintable() else [f"not printable: {ascii(text)[:100]}"]
