"""Records: one row per scored token, in draw order. All bounds are computed from them, without a model.

==================  ====================================================================
column              content
==================  ====================================================================
``draw``            number of the draw
``position``        position of the token in the corpus
``document``        number of its document
``context_length``  number of tokens of context that the prediction used
``log2_q``          log2 of the token's probability
``rank``            number of tokens at least as probable, itself left out
``entropy_bits``    entropy of the prediction
``alpha``           smoothing weight; only with a smoothing head
==================  ====================================================================
"""

import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.corpus.index_shape import is_sha256
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, check_sha256, file_size, read_json, sha256_file

SCHEMA = pa.schema(
    {
        "draw": pa.int64(),
        "position": pa.int64(),
        "document": pa.int64(),
        "context_length": pa.int32(),
        "log2_q": pa.float64(),
        "rank": pa.int32(),
        "entropy_bits": pa.float64(),
    }
)
ALPHA = pa.field("alpha", pa.float64())  # of hypotheses with a smoothing head
# Logits that differ by less, in nats, count as equal in a rank: then rounding on another machine moves no
# rank above its recorded one, and bounds of top-k errors need no slack.
RANK_TOLERANCE_NATS = 1e-4
# A row of scores takes more than a byte, however well it is compressed; a file that states more rows was made
# to fill the memory of its reader.
_ROWS_FREE = 1 << 20


def read_sidecars(records_paths, inputs):
    """Read the sidecars of records and check that records and sidecars belong to the given inputs: records of
    another message would give another model's bound.

    Parameters
    ----------
    records_paths : list of path
        The parts; their sidecars are beside them.
    inputs : list of path
        Message, draws and index from which the records must have been computed.

    Returns
    -------
    list of dict

    Raises
    ------
    InputError
        A file is missing, records have another hash than their sidecar states, or they were computed from
        another input.
    """
    hashes = {Path(path).name: sha256_file(path) for path in inputs}
    sidecars = []
    for path in map(Path, records_paths):
        sidecar = _read_sidecar(path.with_suffix(".json"))
        check_sha256(path, sidecar["sha256"])
        used = {Path(name).name: digest for name, digest in sidecar["inputs"].items()}
        for name, digest in hashes.items():
            if used.get(name) != digest:
                expected = f"expected the present one (sha256 {digest[:12]}...)"
                raise InputError(
                    f"{path}: computed from another {name} (sha256 {str(used.get(name))[:12]}...), {expected}"
                )
        sidecars.append(sidecar)
    return sidecars


def _read_sidecar(path):
    """Read a sidecar and check the kinds of the values that a certificate is made from."""
    sidecar = read_json(path)
    for key, fits in _SIDECAR.items():
        if not isinstance(sidecar, dict) or key not in sidecar:
            raise InputError(f"{path}: not a sidecar of records (key '{key}' is missing)")
        if not fits(sidecar[key]):
            raise InputError(f"{path}: not a sidecar of records ({key} is {sidecar[key]!a:.60})")
    return sidecar


def _is_number(value):
    return type(value) in (int, float)


def _is_text(value):
    return isinstance(value, str) and value.isprintable() and len(value) <= 1000


_SIDECAR = {
    "sha256": is_sha256,
    "epsilon_nats": _is_number,
    "entropy_epsilon_bits": _is_number,
    "device": _is_text,
    "dtype": _is_text,
    "inputs": lambda value: isinstance(value, dict) and all(map(is_sha256, value.values())),
}


def write_records(path, table):
    """Write records to parquet, atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_records(paths, *, head=False, ragged=False):
    """Read the parts of a record set and check that they are whole and in draw order.

    Parameters
    ----------
    paths : list of path
        The parts, in order.
    head : bool
        Whether the hypothesis has a smoothing head: records have the column `ALPHA` if and only if it does.
    ragged : bool
        Whether draws may have different numbers of tokens (documents).

    Returns
    -------
    dict of str to ndarray
        Columns of `SCHEMA`.

    Raises
    ------
    InputError
        A part is not readable or has other columns, draws are missing or out of order, or a number is not
        finite.
    """
    tables, names = [], [*SCHEMA.names, *([ALPHA.name] if head else [])]
    for path in paths:
        tables.append(_read_part(path, names))
    table = pa.concat_tables(tables)
    columns = {name: table[name].to_numpy() for name in names}
    source = ", ".join(map(str, paths[:1])) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    draws = columns["draw"]
    if draws.size == 0:
        raise InputError(f"{source}: no records")
    whole = draws.min() >= 0 and draws.max() < draws.size  # what follows takes memory for each number
    per_draw = np.bincount(draws, minlength=1) if whole else np.zeros(1)
    uneven = not ragged and (per_draw != per_draw[0]).any()
    if draws[0] != 0 or (np.diff(draws) < 0).any() or (per_draw == 0).any() or uneven:
        expected = "every draw 0, 1, 2, ... in that order" + ("" if ragged else ", with equally many tokens")
        raise InputError(f"{source}: draws are missing or out of order; expected {expected}")
    for name in ("log2_q", "entropy_bits", *names[len(SCHEMA.names) :]):
        wrong = np.flatnonzero(~np.isfinite(columns[name]))
        if wrong.size:
            raise InputError(f"{source}: {name} of record {int(wrong[0])} is not finite")
    return columns


def check_draws(paths, n):
    """Refuse records that state fewer rows than draws, before n numbers are drawn; an `InputError`."""
    rows = sum(_opened(path).metadata.num_rows for path in paths)
    if rows < n:
        raise InputError(f"{paths[0]}: {rows} records for {n} draws; expected at least one each")


def _opened(path):
    """Open a parquet file, and refuse one that states more rows than it can hold."""
    size = file_size(path)
    with _named_errors(path):
        # no memory map: a damaged file must not end the process
        file = pq.ParquetFile(
            path, pre_buffer=False, thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 20
        )
    rows = file.metadata.num_rows
    if not 0 <= rows <= _ROWS_FREE + size:
        file.close()
        raise InputError(f"{path}: {rows} records in a file of {size} bytes; expected at most one per byte")
    return file


def _read_part(path, names):
    """Read one part as a table of the columns `names`, of the types of `SCHEMA`."""
    expected = pa.schema([ALPHA if name == ALPHA.name else SCHEMA.field(name) for name in names])
    with _opened(path) as file:
        with _named_errors(path):
            found = file.schema_arrow
        if found.names != names:
            columns = ", ".join(map(str, found.names))
            raise InputError(f"{path}: columns {columns:.200}; expected {', '.join(names)}")
        for field in expected:
            if found.field(field.name).type != field.type:
                kind = f"column '{field.name}' holds {found.field(field.name).type!s:.60}"
                raise InputError(f"{path}: {kind}; expected {field.type}")
        with _named_errors(path):
            table = file.read(use_threads=False)
    if table.num_rows != file.metadata.num_rows:
        raise InputError(f"{path}: {table.num_rows} records, but it states {file.metadata.num_rows}")
    if nulls := sum(column.null_count for column in table.columns):
        raise InputError(f"{path}: {nulls} values are absent; expected none")
    return table.replace_schema_metadata().cast(expected)


@contextlib.contextmanager
def _named_errors(path):
    try:
        yield
    except (OSError, pa.ArrowException, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable parquet file ({reason})") from None
