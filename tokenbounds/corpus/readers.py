"""Read documents from files: count them, stream a range of them as text or token ids, hash the files.

Formats go by suffix:

==============  ================================================  ==============
suffix          documents                                         packed
==============  ================================================  ==============
.txt .py        the file is one document                          .gz .zst
.json           a list of objects or of strings, or one object    .gz .zst
.jsonl          a record per line; blank lines are no records     .gz .zst
.jsonl (ids)    rows of token ids, cut at the end-of-text id      .gz .zst
.parquet        a record per row                                  (inside)
==============  ================================================  ==============

Files are streamed: only one text or ``.json`` file, one line, or one batch of parquet rows is in memory.

Text is UTF-8. Undecodable bytes of a text file, and lone surrogates in a record, become U+FFFD: equal bytes
always give equal text. In JSON, undecodable bytes are an error, because the format forbids them."""

import ast
import contextlib
import functools
import gzip
import io
import itertools
import json
import warnings
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tokenbounds.corpus.sources import TEXT_SUFFIXES, SourceFile
from tokenbounds.corpus.workers import worker_pool
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file

_PARQUET_ROWS = 256


@contextlib.contextmanager
def named_errors(file, place=lambda: ""):
    """Turn an exception from reading a damaged file into one line that names the file (and the line)."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{file.path}{place()}: cannot be read ({reason})") from None


@contextlib.contextmanager
def _stream(file, packed):
    """Open the unpacked bytes as a buffered binary stream."""
    if packed == ".zst":
        # pyarrow and not zstandard: the latter raises no error at the end of a truncated file.
        with pa.input_stream(str(file.location), compression="zstd") as stream:
            yield io.BufferedReader(stream, 1 << 20)
    else:
        with (gzip.open if packed else open)(file.location, "rb") as stream:
            yield stream


def _lines(file, packed):
    """Yield (line number from 1, bytes) of every line that is not blank.

    Counting and reading both use it, so that they agree on which lines are records."""
    number = 0
    with named_errors(file, lambda: f":{number + 1}"), _stream(file, packed) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.isspace():
                yield number, line


def _parse(data, place):
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({error})") from None


def _json_records(file, packed):
    with named_errors(file), _stream(file, packed) as stream:
        data = stream.read()
    value = _parse(data, file.path)
    if not isinstance(value, list | dict):
        raise InputError(
            f"{file.path}: found {_kind(value)}, expected a list of objects or of strings, or one object"
        )
    return value if isinstance(value, list) else [value]


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def _first_name(field, present):
    """Choose the first of the names of a field that is present: (name or None, the names for a message)."""
    names = [field] if isinstance(field, str) else field
    return next((name for name in names if name in present), None), " or ".join(f"'{name}'" for name in names)


def _value_of(record, field, place):
    """Return (field's name, value) of a JSON record."""
    name, called = _first_name(field, record if isinstance(record, dict) else ())
    if not isinstance(record, dict):
        raise InputError(f"{place}: found {_kind(record)}, expected an object with field {called}")
    if name is None:
        raise InputError(f"{place}: no field {called}; found {', '.join(list(record)[:8]) or 'none'}")
    return name, record[name]


def _text_of(record, field, place):
    name, text = _value_of(record, field, place)
    if not isinstance(text, str):
        raise InputError(f"{place}: field '{name}' is {_kind(text)}, expected a string")
    return _well_formed(text)


def _not_ids(row):
    """Say why a value is not a list of token ids."""
    if not isinstance(row, list):
        return f"is {_kind(row)}"
    wrong = [value for value in row if type(value) is not int or not 0 <= value < 2**32]
    return f"holds {json.dumps(wrong[0])[:40]}" if wrong else "is empty"


def _id_documents(file, packed, field, eot_id):
    """Yield (first line, last line, ids without EOT) of each document in rows of token ids.

    The rows are joined in order and cut at the end-of-text id (``E``); the last document may lack it::

        rows         [7 E 8] [9] [10 E E]
        documents     7 | 8   9   10 |  |       (7), (8 9 10), ()
    """
    parts, first, line = [], None, 0
    for line, data in _lines(file, packed):
        place, start = f"{file.path}:{line}", 0
        name, row = _value_of(_parse(data, place), field, place)
        if not isinstance(row, list) or set(map(type, row)) != {int} or min(row) < 0 or max(row) >= 2**32:
            expected = "expected a list of token ids (integers from 0 to 2^32 - 1)"
            raise InputError(f"{place}: field '{name}' {_not_ids(row)}, {expected}")
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
    with named_errors(file):
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
    with table, named_errors(file):
        first = 0  # row number of the row group's first row
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if first < stop and first + rows > start:
                row = first
                for batch in table.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=[field]):
                    if row < stop and row + len(batch) > start:
                        for number, text in enumerate(batch.column(0).to_pylist(), start=row):
                            if start <= number < stop:
                                place = f"{file.path}: row {number}"
                                if text is None:
                                    raise InputError(f"{place}: column '{field}' is null, expected a string")
                                yield place, text
                    row += len(batch)
                    if row >= stop:
                        break
            first += rows


def count_documents(file: SourceFile, field="text", eot_id=None) -> int:
    """Count the documents in a file without looking at their text.

    The count comes from the footer of a parquet file, from the lines of ``.jsonl`` that are not blank, and
    from parsing ``.json``; a text file is one document. With `eot_id`, rows of token ids hold one document
    per occurrence of that id, and one more if the last has no end."""
    suffix, packed = file.format
    if eot_id is not None:
        return sum(1 for _ in _id_documents(file, packed, field, eot_id))
    if suffix in TEXT_SUFFIXES:
        return 1
    if suffix == ".parquet":
        with _parquet(file, field)[0] as table:
            return table.metadata.num_rows
    if suffix == ".jsonl":
        return sum(1 for _ in _lines(file, packed))
    return len(_json_records(file, packed))


def read_documents(
    file: SourceFile, field="text", start=0, stop=None, eot_id=None
) -> Iterator[tuple[str, str | np.ndarray]]:
    """Stream documents `start` (counted from 0) up to but not including `stop` of a file.

    Parameters
    ----------
    file : SourceFile
    field : str or list of str
        Field or column with the text; of several, the first that a record or table has.
    start, stop : int
        Document numbers.
    eot_id : int, optional
        End-of-text id, if the field holds token ids.

    Yields
    ------
    place : str
        File and line (``file:line``), lines, row or entry, for messages.
    text : str, or ndarray of uint32, shape (tokens,)
        Text, or with `eot_id` token ids without EOT. It may be empty.

    Raises
    ------
    InputError
        The first record that cannot be read: malformed, truncated, without the field, or not a string. Lines
        before `start` are not parsed.
    """
    suffix, packed = file.format
    if stop is not None and stop <= start:
        return
    if eot_id is not None:
        for first, last, ids in itertools.islice(_id_documents(file, packed, field, eot_id), start, stop):
            yield f"{file.path}:{first}" + (f"-{last}" if last > first else ""), ids
    elif suffix in TEXT_SUFFIXES:
        if start == 0:
            with named_errors(file), _stream(file, packed) as stream:
                yield file.path, stream.read().decode("utf-8", "replace")
    elif suffix == ".parquet":
        yield from _read_parquet(file, field, start, float("inf") if stop is None else stop)
    elif suffix == ".jsonl":
        for document, (line, data) in enumerate(_lines(file, packed)):
            if document >= start:
                place = f"{file.path}:{line}"
                yield place, _text_of(_parse(data, place), field, place)
            if stop is not None and document + 1 >= stop:
                return
    else:
        for document, record in enumerate(_json_records(file, packed)[start:stop], start=start):
            place = f"{file.path}: entry {document}"
            yield place, _well_formed(record) if isinstance(record, str) else _text_of(record, field, place)


def docstrings(text):
    """Join the docstrings of Python source by blank lines: module, classes and functions, in file order.

    Source that cannot be parsed gives an empty text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in other people's code
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted(
        (node for node in ast.walk(tree) if isinstance(node, kinds)),
        key=lambda node: getattr(node, "lineno", 0),
    )
    return "\n\n".join(docstring for node in nodes if (docstring := ast.get_docstring(node)))


_POOL_BYTES = 1 << 24  # fewer bytes are counted sooner than worker processes start


class CountedFile(NamedTuple):
    """A file at the time its documents were counted: size in bytes, documents, and hexadecimal sha256."""

    file: SourceFile
    bytes: int
    documents: int
    sha256: str


def _count(file, field, eot_id):
    return CountedFile(file, file.bytes(), count_documents(file, field, eot_id), file.sha256 or _sha256(file))


def _sha256(file):
    with named_errors(file):
        return sha256_file(file.location)


def count_all(files: list[SourceFile], field="text", processes=1, eot_id=None) -> list[CountedFile]:
    """Count the documents of every file and hash it, in order, with `processes` processes."""
    count = functools.partial(_count, field=field, eot_id=eot_id)
    with contextlib.ExitStack() as stack:
        if processes > 1 and len(files) > 1 and sum(file.bytes() for file in files) >= _POOL_BYTES:
            pool = stack.enter_context(worker_pool(min(processes, len(files))))
            counted = pool.map(count, files, chunksize=max(1, min(64, len(files) // (4 * processes))))
        else:
            counted = map(count, files)
        return list(tqdm(counted, "counting", len(files), unit="file", disable=None))


def read_range(
    files, field, start, stop, extract="all", eot_id=None
) -> Iterator[tuple[int, str, str | np.ndarray]]:
    """Stream the documents `start` to `stop` of a list of files joined in order.

    Parameters
    ----------
    files : list of CountedFile
    field, eot_id
        As for `read_documents`.
    start, stop : int
        Document numbers over all files.
    extract : {"all", "docstrings"}
        Part of each document that is kept as its text.

    Yields
    ------
    number : int
        Document number over all files.
    place, text
        As from `read_documents`.

    Raises
    ------
    InputError
        As `read_documents`; also if a file changed since it was counted.
    """
    first = 0
    for file, size, documents, sha256 in files:
        begin, end = max(start, first), min(stop, first + documents)
        if begin < end:
            again = "count them again (remove documents.json)"
            if file.bytes() != size:
                before = f"{size} when its documents were counted"
                raise InputError(f"{file.path}: {file.bytes()} bytes, but {before}; {again}")
            if (now := _sha256(file)) != sha256:
                since = "changed since its documents were counted"
                raise InputError(
                    f"{file.path}: {since} (sha256 {now[:12]}..., expected {sha256[:12]}...); {again}"
                )
            number = begin
            for place, text in read_documents(file, field, begin - first, end - first, eot_id):
                yield number, place, docstrings(text) if extract == "docstrings" else text
                number += 1
            if number != end:
                before = f"{documents} when they were counted"
                raise InputError(f"{file.path}: {number - first} documents, but {before}; {again}")
        first += documents
