"""Documents from files: which files, how many documents each holds, and a range of them as text, in order.

Formats go by suffix: ``.txt`` and ``.py`` (the file is one document), ``.json`` (a list of objects or of strings, or one object),
``.jsonl`` (a record per line, blank lines are no records) and ``.parquet`` (a record per row). Rows of ``.jsonl`` may also
hold token ids, which are cut into documents at the end-of-text id. All but parquet, which is compressed inside,
may be packed as ``.gz`` or ``.zst``. Files are streamed: only one text or ``.json`` file, one line, or one batch of parquet rows is ever in
memory.

Text is UTF-8. Undecodable bytes of a text file, and lone surrogates in a record, become U+FFFD: equal bytes always give equal text. In
JSON, undecodable bytes are an error, because the format forbids them.
"""

import ast
import concurrent.futures
import contextlib
import dataclasses
import functools
import gzip
import importlib.metadata
import io
import itertools
import json
import multiprocessing
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tokenbounds.errors import InputError
from tokenbounds.files import is_excluded, matching_files, sha256_file
from tokenbounds.sections import Source

_TEXT = (".txt", ".py")
_PACKED = (".gz", ".zst")
HUB_PATTERNS = [f"*{suffix}{packed}" for suffix in (".jsonl", ".json", ".txt") for packed in ("", *_PACKED)] + ["*.parquet"]
_PARQUET_ROWS = 256
_POOL_BYTES = 1 << 24  # less is counted before worker processes have started


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file with documents.

    Attributes
    ----------
    path : str
        As the manifest names it: as found by a glob, or, for a file of an installed package, relative to where packages are installed, so
        that the manifest is the same on every machine.
    package : str or None
        The installed package it belongs to.
    sha256 : str or None
        Of its bytes, where a download has already checked them.
    """

    path: str
    package: str | None = None
    sha256: str | None = dataclasses.field(default=None, compare=False)

    @property
    def location(self) -> Path:
        """Where it is on this machine."""
        return Path(self.path) if self.package is None else _package_root(self.package) / self.path

    @property
    def format(self):
        """(format suffix, packing suffix or None)."""
        suffixes = Path(self.path).suffixes
        packed = suffixes.pop() if suffixes and suffixes[-1] in _PACKED else None
        suffix = suffixes[-1] if suffixes else ""
        if suffix == ".parquet" and packed:
            raise InputError(f"{self.path}: a packed parquet file cannot be read in parts; unpack it (parquet is compressed inside)")
        if suffix not in (*_TEXT, ".json", ".jsonl", ".parquet"):
            expected = "expected .txt, .jsonl, .json or .parquet (.gz and .zst are read through)"
            raise InputError(f"{self.path}: unknown format '{suffix}'; {expected}")
        return suffix, packed

    def bytes(self):
        """Size on disk in bytes."""
        try:
            return self.location.stat().st_size
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None


class CountedFile(NamedTuple):
    """A file as it was when its documents were counted: size in bytes, number of documents, and hexadecimal sha256."""

    file: SourceFile
    bytes: int
    documents: int
    sha256: str


@functools.cache
def _package_root(package):
    try:
        return Path(importlib.metadata.distribution(package).locate_file("")).resolve()
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(f"source.installed: no package '{package}' is installed in this environment") from None


def list_files(source: Source, hub_files=None, generated=None) -> list[SourceFile]:
    """The files of a source, in the order their documents are numbered.

    Parameters
    ----------
    source : Source
        Globs of ``source.exclude`` are matched against the whole path in the package, folder or dataset; ``*`` also matches ``/``.
    hub_files : list of dict, optional
        For a hub source: what `tokenbounds.hub.download` returned.
    generated : path, optional
        For a source that the run makes: what `tokenbounds.sequences` or `tokenbounds.antibodies` wrote.

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
            raise ValueError("a hub source needs hub_files, the list that tokenbounds.hub.download returned")
        files = [SourceFile(entry["path"], sha256=entry["sha256"]) for entry in sorted(hub_files, key=lambda entry: entry["name"])]
    names = {entry["path"]: entry["name"] for entry in hub_files} if source.hub else {}

    kept = [file for file in dict.fromkeys(files) if not is_excluded(names.get(file.path, file.path), source.exclude)]
    if not kept:
        raise InputError(f"source: no file is left of {len(files)} after exclude {source.exclude}")
    for file in kept:
        suffix, _ = file.format
        if source.eot_id is not None and suffix != ".jsonl":
            raise InputError(f"{file.path}: found {suffix}; expected .jsonl, as source.eot_id says that rows hold token ids")
    return kept


def _package_files(package):
    """Non-empty .py files of a package's RECORD in sorted order.

    Scripts that an installer puts outside the package folder (``../../bin``) are left out: it writes the environment's own path into them.
    """
    root = _package_root(package)
    recorded = importlib.metadata.files(package)
    if recorded is None:
        raise InputError(f"source.installed: package '{package}' has no list of its files (RECORD)")
    files = [SourceFile(path.as_posix(), package) for path in recorded if path.suffix == ".py" and ".." not in path.parts]
    files = [file for file in sorted(files, key=lambda file: file.path) if file.bytes()]
    if not files:
        raise InputError(f"source.installed: package '{package}' has no .py file below {root.name}")
    return files


def _matches(pattern):
    found = matching_files(pattern)
    if not found:
        raise InputError(f"source.files: '{pattern}' matches no file (in {Path.cwd()})")
    return found


# ---------------------------------------------------------------- reading


@contextlib.contextmanager
def _named_errors(file, where=lambda: ""):
    """Turn what reading a damaged file raises into one line naming the file (and the line)."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file.path}{where()}: cannot be read ({reason})") from None


@contextlib.contextmanager
def _stream(file, packed):
    """The unpacked bytes as a buffered binary stream."""
    if packed == ".zst":
        # pyarrow and not zstandard: the latter ends without an error where a truncated file does.
        with pa.input_stream(str(file.location), compression="zstd") as stream:
            yield io.BufferedReader(stream, 1 << 20)
    else:
        with (gzip.open if packed else open)(file.location, "rb") as stream:
            yield stream


def _lines(file, packed):
    """(line number from 1, bytes) of every line that is not blank; counting and reading both go through here."""
    number = 0
    with _named_errors(file, lambda: f":{number + 1}"), _stream(file, packed) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.isspace():
                yield number, line


def _parse(data, where):
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error})") from None


def _json_records(file, packed):
    with _named_errors(file), _stream(file, packed) as stream:
        data = stream.read()
    value = _parse(data, file.path)
    if not isinstance(value, list | dict):
        raise InputError(f"{file.path}: found {_kind(value)}, expected a list of objects or of strings, or one object")
    return value if isinstance(value, list) else [value]


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def _first_name(field, there):
    """(name or None, what to call the field): the first of the names that is there."""
    names = [field] if isinstance(field, str) else field
    return next((name for name in names if name in there), None), " or ".join(f"'{name}'" for name in names)


def _value_of(record, field, where):
    """(field's name, value) of a JSON record."""
    name, called = _first_name(field, record if isinstance(record, dict) else ())
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {_kind(record)}, expected an object with field {called}")
    if name is None:
        raise InputError(f"{where}: no field {called}; found {', '.join(list(record)[:8]) or 'none'}")
    return name, record[name]


def _text_of(record, field, where):
    name, text = _value_of(record, field, where)
    if not isinstance(text, str):
        raise InputError(f"{where}: field '{name}' is {_kind(text)}, expected a string")
    return _well_formed(text)


def _no_ids(row):
    """Why a value is no list of token ids."""
    if not isinstance(row, list):
        return f"is {_kind(row)}"
    wrong = [value for value in row if type(value) is not int or not 0 <= value < 2**32]
    return f"holds {json.dumps(wrong[0])[:40]}" if wrong else "is empty"


def _id_documents(file, packed, field, eot_id):
    """(first line, last line, ids without EOT) of each document in rows of token ids; the last one may lack its EOT.

    A document is what lies between two end-of-text ids of the rows joined in order.
    """
    parts, first, line = [], None, 0
    for line, data in _lines(file, packed):
        where, start = f"{file.path}:{line}", 0
        name, row = _value_of(_parse(data, where), field, where)
        if not isinstance(row, list) or set(map(type, row)) != {int} or min(row) < 0 or max(row) >= 2**32:
            raise InputError(f"{where}: field '{name}' {_no_ids(row)}, expected a list of token ids (integers from 0 to 2^32 - 1)")
        ids = np.array(row, np.uint32)
        for end in np.flatnonzero(ids == eot_id):
            yield first or line, line, np.concatenate([*parts, ids[start:end]])
            parts, first, start = [], None, end + 1
        if start < len(ids):
            parts.append(ids[start:])
            first = first or line
    if parts:
        yield first, line, np.concatenate(parts)


def _well_formed(text):
    try:
        text.encode()
        return text
    except UnicodeEncodeError:  # JSON may escape half a surrogate pair, which is no character
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parquet(file, field):
    with _named_errors(file):
        table = pq.ParquetFile(file.location, pre_buffer=False)
    schema = table.schema_arrow
    name, called = _first_name(field, schema.names)
    if name is None:
        table.close()
        raise InputError(f"{file.path}: no column {called}; found {', '.join(schema.names[:8]) or 'none'}")
    kind = schema.field(name).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        table.close()
        raise InputError(f"{file.path}: column '{name}' holds {kind}, expected strings")
    return table, name


def _read_parquet(file, field, start, stop):
    table, field = _parquet(file, field)
    with table, _named_errors(file):
        first = 0  # row number of the row group's first row
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first < stop and first + rows > start:
                row = first
                for batch in table.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=[field]):
                    if row < stop and row + len(batch) > start:
                        for number, text in enumerate(batch.column(0).to_pylist(), start=row):
                            if start <= number < stop:
                                where = f"{file.path}: row {number}"
                                if text is None:
                                    raise InputError(f"{where}: column '{field}' is null, expected a string")
                                yield where, text
                    row += len(batch)
                    if row >= stop:
                        break
            first += rows


def worker_pool(processes, initializer=None, arguments=()):
    """A pool of spawned processes that end with this one, also when it is killed."""
    return concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start_worker, (initializer, arguments))


def _start_worker(initializer, arguments):
    threading.Thread(target=_follow_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _follow_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def count_documents(file: SourceFile, field="text", eot_id=None) -> int:
    """Number of documents in a file, without looking at their text.

    Parquet answers from its footer, ``.jsonl`` by its lines that are not blank, ``.json`` by parsing, a text file is one document. With
    `eot_id`, rows of token ids hold as many documents as that id occurs, and one more where the last has no end.
    """
    suffix, packed = file.format
    if eot_id is not None:
        return sum(1 for _ in _id_documents(file, packed, field, eot_id))
    if suffix in _TEXT:
        return 1
    if suffix == ".parquet":
        with _parquet(file, field)[0] as table:
            return table.metadata.num_rows
    if suffix == ".jsonl":
        return sum(1 for _ in _lines(file, packed))
    return len(_json_records(file, packed))


def _count(file, field, eot_id):
    return CountedFile(file, file.bytes(), count_documents(file, field, eot_id), file.sha256 or _sha256(file))


def _sha256(file):
    with _named_errors(file):
        return sha256_file(file.location)


def count_all(files: list[SourceFile], field="text", processes=1, eot_id=None) -> list[CountedFile]:
    """`count_documents` and the sha256 of every file, in order, by `processes` processes."""
    count = functools.partial(_count, field=field, eot_id=eot_id)
    with contextlib.ExitStack() as stack:
        if processes > 1 and len(files) > 1 and sum(file.bytes() for file in files) >= _POOL_BYTES:
            pool = stack.enter_context(worker_pool(min(processes, len(files))))
            counted = pool.map(count, files, chunksize=max(1, min(64, len(files) // (4 * processes))))
        else:
            counted = map(count, files)
        return list(tqdm(counted, "counting", len(files), unit="file", disable=None))


def read_documents(file: SourceFile, field="text", start=0, stop=None, eot_id=None) -> Iterator[tuple[str, str | np.ndarray]]:
    """Stream documents `start` (counted from 0) up to but not including `stop` of a file.

    Parameters
    ----------
    file : SourceFile
    field : str or list of str
        Field or column with the text; of several, the first that a record or table has.
    start, stop : int
        Document numbers.
    eot_id : int, optional
        The field holds token ids, in which this one ends documents.

    Yields
    ------
    where : str
        File and line (``file:line``), lines, row or entry, for messages.
    text : str, or ndarray of uint32, shape (tokens,)
        Text, or with `eot_id` token ids without EOT. It may be empty.

    Raises
    ------
    InputError
        On the first record that cannot be read: malformed, truncated, without the field, or not a string. Lines before `start` are not
        parsed.
    """
    suffix, packed = file.format
    if stop is not None and stop <= start:
        return
    if eot_id is not None:
        for first, last, ids in itertools.islice(_id_documents(file, packed, field, eot_id), start, stop):
            yield f"{file.path}:{first}" + (f"-{last}" if last > first else ""), ids
    elif suffix in _TEXT:
        if start == 0:
            with _named_errors(file), _stream(file, packed) as stream:
                yield file.path, stream.read().decode("utf-8", "replace")
    elif suffix == ".parquet":
        yield from _read_parquet(file, field, start, float("inf") if stop is None else stop)
    elif suffix == ".jsonl":
        for document, (line, data) in enumerate(_lines(file, packed)):
            if document >= start:
                where = f"{file.path}:{line}"
                yield where, _text_of(_parse(data, where), field, where)
            if stop is not None and document + 1 >= stop:
                return
    else:
        for document, record in enumerate(_json_records(file, packed)[start:stop], start=start):
            where = f"{file.path}: entry {document}"
            yield where, _well_formed(record) if isinstance(record, str) else _text_of(record, field, where)


def docstrings(text):
    """The docstrings of Python source, of module, classes and functions in the order of the file, joined by blank lines; else nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in other people's code
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(found for node in nodes if (found := ast.get_docstring(node)))


def read_range(files, field, start, stop, part="all", eot_id=None) -> Iterator[tuple[int, str, str | np.ndarray]]:
    """Stream the documents `start` to `stop` of a list of files joined in order.

    Parameters
    ----------
    files : list of CountedFile
    field, eot_id
        As for `read_documents`.
    start, stop : int
        Document numbers over all files.
    part : {"all", "docstrings"}
        What of a document is its text.

    Yields
    ------
    number, where, text
        Number over all files, and what `read_documents` yields.

    Raises
    ------
    InputError
        Also when a file is no longer as it was counted.
    """
    first = 0
    for file, size, documents, sha256 in files:
        begin, end = max(start, first), min(stop, first + documents)
        if begin < end:
            again = "count them again (remove documents.json)"
            if file.bytes() != size:
                raise InputError(f"{file.path}: {file.bytes()} bytes, but {size} when its documents were counted; {again}")
            if (found := _sha256(file)) != sha256:
                since = "changed since its documents were counted"
                raise InputError(f"{file.path}: {since} (sha256 {found[:12]}..., expected {sha256[:12]}...); {again}")
            number = begin
            for where, text in read_documents(file, field, begin - first, end - first, eot_id):
                yield number, where, docstrings(text) if part == "docstrings" else text
                number += 1
            if number != end:
                raise InputError(f"{file.path}: {number - first} documents, but {documents} when they were counted; {again}")
        first += documents
