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

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, check_sha256, read_json, sha256_file

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
        sidecar = read_json(path.with_suffix(".json"))
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
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(
                f"{path}: not a readable parquet file ({' '.join(str(error).split())[:120]})"
            ) from None
        if table.schema.names != names:
            raise InputError(f"{path}: columns {', '.join(table.schema.names)}; expected {', '.join(names)}")
        tables.append(table)
    table = pa.concat_tables(tables)
    columns = {name: table[name].to_numpy() for name in names}
    source = ", ".join(map(str, paths[:1])) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    draws = columns["draw"]
    if draws.size == 0:
        raise InputError(f"{source}: no records")
    per_draw = np.bincount(draws, minlength=1) if draws.min() >= 0 else np.zeros(1)
    uneven = not ragged and (per_draw != per_draw[0]).any()
    if draws[0] != 0 or (np.diff(draws) < 0).any() or (per_draw == 0).any() or uneven:
        expected = "every draw 0, 1, 2, ... in that order" + ("" if ragged else ", with equally many tokens")
        raise InputError(f"{source}: draws are missing or out of order; expected {expected}")
    for name in ("log2_q", "entropy_bits", *names[len(SCHEMA.names) :]):
        wrong = np.flatnonzero(~np.isfinite(columns[name]))
        if wrong.size:
            raise InputError(f"{source}: {name} of record {int(wrong[0])} is not finite")
    return columns
