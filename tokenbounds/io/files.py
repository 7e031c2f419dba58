"""Files that are whole or absent, JSON, hashes and globs."""

import contextlib
import fnmatch
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
from pathlib import Path

from tokenbounds.errors import InputError

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,9})\.tmp")
_STALE_SECONDS = 3600.0
# JSON takes up to some 25 times its bytes in memory.
MOST_JSON_BYTES = 256 << 20
_MOST_DIGITS, _MOST_LEVELS = 40, 100


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    A reader therefore sees the whole file or none, even after ``kill -9`` (the temporary name starts with a
    dot and is never read)."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder):
    """Yield an empty temporary folder beside `folder`; it replaces `folder` on success, as in `atomic_path`.

    The folder appears with all its files or not at all."""
    folder = Path(folder)
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process with the number of this one
    try:
        temporary.mkdir()
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path):
    """Return this process's temporary name beside `path`, after removing those of killed processes.

    Processes of other machines cannot be seen, so only a temporary that was not written to for an hour is
    taken for left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.parent.glob(f".{glob.escape(path.name)}.*.tmp")
    _remove_left(left, name=path.name, seconds=_STALE_SECONDS)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_temporaries(folder):
    """Remove the temporaries of killed processes anywhere under `folder`.

    No other machine may be at work in it: its processes would be taken for killed."""
    _remove_left(list(Path(folder).rglob(".*.tmp")))


def _remove_left(paths, name=None, seconds=0.0):
    """Remove temporaries (of `name` only) whose process does not run here and that are `seconds` old."""
    for path in paths:
        match = _TEMPORARY.fullmatch(path.name)
        if not match or name not in (None, match["name"]) or _is_running(int(match["process"])):
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def write_text(path, text):
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """Write `value` as indented JSON, atomically. NaN and infinities are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path):
    """Read a JSON file; an `InputError` names the file when it is absent or not JSON.

    Files may come from a stranger: what `write_json` never writes is refused too. That is a number that is
    not finite or has more than 40 digits, a key that an object holds twice, text that is not Unicode, more
    than 100 levels, and more than `MOST_JSON_BYTES`."""
    data = read_whole(path, MOST_JSON_BYTES)
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_short,
            object_pairs_hook=_distinct,
        )
        _check_values(value)
        return value
    except RecursionError:
        raise InputError(f"{path}: not valid JSON (more than {_MOST_LEVELS} levels)") from None
    except ValueError as error:  # of json, of UTF-8, and those raised below
        raise InputError(f"{path}: not valid JSON ({error})") from None


def _refuse_constant(name):
    raise ValueError(f"{name} is no number")


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is too large a number")
    return value


def _short(text):
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits, expected at most {_MOST_DIGITS}")
    return int(text)


def _distinct(pairs):
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {twice!a:.60} stands twice in an object")
    return value


def _check_values(value):
    """Check the levels of a JSON value, without recursion, and that its texts can be written."""
    level, values = 0, [value]
    while values:
        if level > _MOST_LEVELS:
            raise ValueError(f"more than {_MOST_LEVELS} levels")
        level, inner = level + 1, []
        for part in values:
            if isinstance(part, str):
                part.encode()  # half a surrogate pair is no text: a UnicodeEncodeError is a ValueError
            elif isinstance(part, dict):
                inner += [*part, *part.values()]
            elif isinstance(part, list):
                inner += part
        values = inner


def file_size(path):
    """Return the bytes of a regular file; an `InputError` names anything else: a pipe or a device might never
    end."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{ascii(str(path))[1:-1]}: cannot be read ({reason})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise InputError(f"{path}: {kind}; expected a file")
    return status.st_size


def read_whole(path, most):
    """Read a regular file of at most `most` bytes; an `InputError` names any other."""
    if (size := file_size(path)) > most:
        raise InputError(f"{path}: {size} bytes; expected at most {most}")
    try:
        with open(path, "rb") as handle:
            return handle.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def sha256_file(path):
    """Compute the hexadecimal sha256 of a file, read in blocks."""
    file_size(path)
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def check_sha256(path, expected, actual=None):
    """Raise an `InputError` unless a file's sha256 is the one recorded when it was written.

    Parameters
    ----------
    path : path
    expected : str
        Hexadecimal sha256 as recorded.
    actual : str, optional
        Hexadecimal sha256 of the file, if it is known already.
    """
    actual = actual or sha256_file(path)
    if actual != expected:
        raise InputError(
            f"{path}: changed since it was written (sha256 {actual[:12]}..., expected {expected[:12]}...)"
        )


def matching_files(pattern):
    """List the files (not folders) that a glob matches, sorted; ``**`` matches any number of folders."""
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())


def is_excluded(name, patterns):
    """Check whether a whole path matches one of the globs; ``*`` also matches ``/``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def canonical_json(value):
    """Write a JSON value as its one canonical text: sorted keys, no spaces.

    Configurations are hashed and coded in this form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def config_hash(value):
    """Hash a configuration: the first 16 hexadecimal digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
