"""Files that are whole or absent, JSON, hashes and globs."""

import contextlib
import fnmatch
import glob
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path

from tokenbounds.errors import InputError

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,9})\.tmp")
_STALE_SECONDS = 3600.0


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
    """Read a JSON file; an `InputError` names the file when it is absent or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def sha256_file(path):
    """Compute the hexadecimal sha256 of a file, read in blocks."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


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
