"""Provenance: the configuration, inputs, versions and commit that a result came from.

Every sidecar and certificate holds it."""

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from tokenbounds.io.files import sha256_file

_PACKAGES = (
    "tokenbounds",
    "torch",
    "numpy",
    "tokenizers",
    "sentencepiece",
    "transformers",
    "constriction",
    "safetensors",
    "pyarrow",
)


@functools.cache
def git_commit():
    """Return the commit of the checkout that this package is imported from.

    ``+dirty`` follows it if tracked files differ from it; outside a checkout it is None."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("rev-parse", "HEAD") + (
            "+dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def versions():
    """Return the versions of Python and of the installed packages that can change a result."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def provenance(config, inputs=(), **facts):
    """Collect the provenance of a result. It holds no time of day: the same inputs give the same bytes.

    Parameters
    ----------
    config : dict
        Slice of the configuration that decided the result.
    inputs : iterable of path
        Files that the result was computed from; their sha256 is recorded under their name as given.
    **facts
        Further entries: seed, device, dtype, counts.

    Returns
    -------
    dict
        `facts`, then ``config``, ``inputs``, ``versions`` and ``commit``.
    """
    return {
        **facts,
        "config": config,
        "inputs": {str(path): sha256_file(path) for path in inputs},
        "versions": versions(),
        "commit": git_commit(),
    }
