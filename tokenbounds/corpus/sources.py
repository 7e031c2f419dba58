"""Sources: the files of a corpus, in the order in which their documents are numbered.

They are the Python files of installed packages, the matches of globs, the files of a download, or a file that
the run generates. `tokenbounds.corpus.readers` reads them."""

import dataclasses
import functools
import importlib.metadata
from pathlib import Path

from tokenbounds.config.schema import Source
from tokenbounds.errors import InputError
from tokenbounds.io.files import is_excluded, matching_files

TEXT_SUFFIXES = (".txt", ".py")
_PACKED = (".gz", ".zst")
HUB_PATTERNS = [
    f"*{suffix}{packed}" for suffix in (".jsonl", ".json", ".txt") for packed in ("", *_PACKED)
] + ["*.parquet"]


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file with documents.

    Attributes
    ----------
    path : str
        Path in the manifest: as matched by a glob, or, for a file of an installed package, relative to the
        folder of installed packages, so that the manifest is the same on every machine.
    package : str or None
        Installed package that the file belongs to.
    sha256 : str or None
        Hash of the bytes, if a download has already checked them.
    """

    path: str
    package: str | None = None
    sha256: str | None = dataclasses.field(default=None, compare=False)

    @property
    def location(self) -> Path:
        """Path on this machine."""
        return Path(self.path) if self.package is None else _package_root(self.package) / self.path

    @property
    def format(self):
        """Pair (format suffix, packing suffix or None); an unknown format is an `InputError`."""
        suffixes = Path(self.path).suffixes
        packed = suffixes.pop() if suffixes and suffixes[-1] in _PACKED else None
        suffix = suffixes[-1] if suffixes else ""
        if suffix == ".parquet" and packed:
            advice = "unpack it (parquet is compressed inside)"
            raise InputError(f"{self.path}: a packed parquet file cannot be read in parts; {advice}")
        if suffix not in (*TEXT_SUFFIXES, ".json", ".jsonl", ".parquet"):
            expected = "expected .txt, .jsonl, .json or .parquet (.gz and .zst are read through)"
            raise InputError(f"{self.path}: unknown format '{suffix}'; {expected}")
        return suffix, packed

    def bytes(self):
        """Return the size on disk in bytes."""
        try:
            return self.location.stat().st_size
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None


@functools.cache
def _package_root(package):
    try:
        return Path(importlib.metadata.distribution(package).locate_file("")).resolve()
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(
            f"source.installed: no package '{package}' is installed in this environment"
        ) from None


def list_files(source: Source, hub_files=None, generated=None) -> list[SourceFile]:
    """List the files of a source, in the order in which their documents are numbered.

    Parameters
    ----------
    source : Source
        Globs of ``source.exclude`` are matched against the whole path in the package, folder or dataset;
        ``*`` also matches ``/``.
    hub_files : list of dict, optional
        Files of a hub source: the list that `tokenbounds.io.hub.download` returned.
    generated : path, optional
        File of a source that the run generates, from `tokenbounds.corpus.synthetic.integer_sequences` or
        `tokenbounds.corpus.synthetic.antibodies`.

    Raises
    ------
    InputError
        An unknown package, a glob that matches nothing, an unknown format, or nothing left after ``exclude``.
    """
    if source.installed is not None:
        files = [file for package in source.installed for file in _package_files(package)]
    elif source.files is not None:
        files = [SourceFile(path) for pattern in source.files for path in _matches(pattern)]
    elif source.made is not None:
        files = [SourceFile(str(generated))]
    else:
        if hub_files is None:
            raise ValueError(
                "a hub source needs hub_files, the list that tokenbounds.io.hub.download returned"
            )
        files = [
            SourceFile(entry["path"], sha256=entry["sha256"])
            for entry in sorted(hub_files, key=lambda entry: entry["name"])
        ]
    names = {entry["path"]: entry["name"] for entry in hub_files} if source.hub else {}

    kept = [
        file
        for file in dict.fromkeys(files)
        if not is_excluded(names.get(file.path, file.path), source.exclude)
    ]
    if not kept:
        raise InputError(f"source: no file is left of {len(files)} after exclude {source.exclude}")
    for file in kept:
        suffix, _ = file.format
        if source.eot_id is not None and suffix != ".jsonl":
            reason = "as source.eot_id says that rows hold token ids"
            raise InputError(f"{file.path}: found {suffix}; expected .jsonl, {reason}")
    return kept


def _package_files(package):
    """List the non-empty .py files of a package's RECORD in sorted order.

    Scripts that an installer puts outside the package folder (``../../bin``) are left out: the installer
    writes the environment's own path into them."""
    root = _package_root(package)
    recorded = importlib.metadata.files(package)
    if recorded is None:
        raise InputError(f"source.installed: package '{package}' has no list of its files (RECORD)")
    files = [
        SourceFile(path.as_posix(), package)
        for path in recorded
        if path.suffix == ".py" and ".." not in path.parts
    ]
    files = [file for file in sorted(files, key=lambda file: file.path) if file.bytes()]
    if not files:
        raise InputError(f"source.installed: package '{package}' has no .py file below {root.name}")
    return files


def _matches(pattern):
    paths = matching_files(pattern)
    if not paths:
        raise InputError(f"source.files: '{pattern}' matches no file (in {Path.cwd()})")
    return paths
