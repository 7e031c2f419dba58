"""Files that are whole or absent, their hashes, and the sidecar that says where each came from."""

import contextlib
import fnmatch
import functools
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path

from tokenbounds.errors import InputError

_PACKAGES = ("tokenbounds", "torch", "numpy", "tokenizers", "sentencepiece", "transformers", "constriction", "safetensors", "pyarrow")
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,9})\.tmp")
_STALE_SECONDS = 3600.0


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any failure.

    A reader therefore sees the whole file or none, also after ``kill -9`` (the temporary name starts with a dot and is never read).
    """
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
    """As `atomic_path`, for a folder, which is yielded empty: it appears with all its files or not at all, in place of an older one."""
    folder = Path(folder)
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the number of this one
    try:
        temporary.mkdir()
        yield temporary
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path):
    """Temporary name of this process beside `path`, after removing what killed processes left there under theirs.

    A process of another machine cannot be asked for, so that only what was not written to for an hour counts as left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"), name=path.name, seconds=_STALE_SECONDS)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_temporaries(folder):
    """Remove what killed processes left half-written anywhere under `folder`, in which no other machine may be at work."""
    _remove_left(list(Path(folder).rglob(".*.tmp")))


def _remove_left(paths, name=None, seconds=0.0):
    """Remove temporaries (of `name` only) of processes that do not run on this machine and last wrote to them so many seconds ago."""
    for path in paths:
        found = _TEMPORARY.fullmatch(path.name)
        if not found or name not in (None, found["name"]) or _is_running(int(found["process"])):
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
    """Hexadecimal sha256 of a file, read in blocks."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def check_sha256(path, expected, found=None):
    """Refuse a file whose sha256 (`found`, where it is known already) is not the one recorded when it was written: an `InputError`."""
    found = found or sha256_file(path)
    if found != expected:
        raise InputError(f"{path}: changed since it was written (sha256 {found[:12]}..., expected {expected[:12]}...)")


def matching_files(pattern):
    """Files (not folders) that a glob matches, sorted; ``**`` matches any number of folders."""
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())


def is_excluded(name, patterns):
    """Whether a whole path matches one of the globs; ``*`` also matches ``/``."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def canonical_json(value):
    """The one text of a JSON value: sorted keys, no spaces. Used wherever a configuration is hashed or coded."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def config_hash(value):
    """First 16 hexadecimal digits of the sha256 of a configuration's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


@functools.cache
def git_commit():
    """Commit of the checkout this package is imported from, ``+dirty`` if files differ from it, or None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments):
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def versions():
    """Versions of Python and of the installed packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def provenance(config, inputs=(), **facts):
    """What every sidecar says of its file. It holds no time of day: the same inputs give the same bytes.

    Parameters
    ----------
    config : dict
        The slice of the configuration that decided the result.
    inputs : iterable of path
        Files the result was computed from; their sha256 is recorded under their name as given.
    **facts
        Anything more: seed, device, dtype, counts.
    """
    return {
        **facts,
        "config": config,
        "inputs": {str(path): sha256_file(path) for path in inputs},
        "versions": versions(),
        "commit": git_commit(),
    }
