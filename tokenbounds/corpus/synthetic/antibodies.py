"""Clonal families of antibodies as documents (paper, 6.3 and B.9).

Families come from data units of Observed Antibody Space (OAS) [Olsen et al. 2022], which are grouped here;
from files of families that another program made, e.g. FastBCR; or from a synthetic repertoire
(`tokenbounds.corpus.synthetic.antibody_repertoire`). A document is one family, its members in random order::

    [CLS]s1[ClSep]s2[ClSep]...[ClSep]sN

Tokenizing appends the end token.
"""

import csv
import gzip
import itertools
import json
import math
import zlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.csv

from tokenbounds.config.schema import Antibodies
from tokenbounds.corpus.synthetic.antibody_repertoire import AMINO_ACIDS, synthetic_families
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, matching_files, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.randomness import generator

START, SEPARATOR = "[CLS]", "[ClSep]"
_UNIT_COLUMNS = ("productive", "v_call", "j_call", "sequence_alignment_aa", "junction_aa")
_SEQUENCE, _CLONE = "sequence_alignment_aa", "clone_id"
_UNKNOWN_SUBJECTS = ("", "no", "none")
_COMPARED = 1 << 24  # letters compared at once by `single_linkage`


def read_unit_metadata(path):
    """Read the metadata of an OAS data unit: its first line, one csv cell with a JSON object.

    Returns
    -------
    dict
        ``Species``, ``Chain``, ``Subject``, ``Author``, ``Run``, ...

    Raises
    ------
    InputError
        The file cannot be read, or its first line is something else.
    """
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(
            path, "rt", encoding="utf-8", newline=""
        ) as handle:
            line = handle.readline()
        cells = next(csv.reader([line]), [])
        metadata = json.loads(cells[0]) if len(cells) == 1 else None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        expected = "expected one cell with a JSON object, as in OAS data units"
        raise InputError(f"{path}: line 1 is {line.strip()[:40]!r}; {expected}")
    if missing := [key for key in ("Species", "Chain") if not isinstance(metadata.get(key), str)]:
        keys = ", ".join(list(metadata)[:8]) or "nothing"
        raise InputError(f"{path}: no '{missing[0]}' in the metadata of line 1; found {keys}")
    return metadata


def read_columns(path, columns, optional=(), skip_lines=0):
    """Read columns of a csv file (also packed as ``.gz``) as text.

    Parameters
    ----------
    path : path
    columns, optional : sequence of str
        Names of the columns that must be there, and of those that may be.
    skip_lines : int
        Number of lines before the header.

    Returns
    -------
    dict of str to list of str
        By column name; those of `optional` that the file lacks are left out.

    Raises
    ------
    InputError
        A missing column, or a file that is damaged or no csv with as many cells in every line.
    """
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            options = pa.csv.ReadOptions(skip_rows=skip_lines)
            # One type for all columns: a guess could change with the rows.
            names = _header(path, skip_lines)
            kept = [name for name in (*columns, *optional) if name in names]
            if missing := [name for name in columns if name not in names]:
                raise InputError(f"{path}: no column '{missing[0]}'; found {', '.join(names[:8]) or 'none'}")
            convert = pa.csv.ConvertOptions(
                column_types=dict.fromkeys(kept, pa.string()), include_columns=kept, strings_can_be_null=False
            )
            table = pa.csv.read_csv(stream, options, convert_options=convert)
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    return {name: table.column(name).to_pylist() for name in kept}


def _header(path, line):
    with (gzip.open if str(path).endswith(".gz") else open)(
        path, "rt", encoding="utf-8", newline=""
    ) as handle:
        return next(csv.reader(itertools.islice(handle, line, None)), [])


def _is_sequence(text):
    return bool(text) and not text.strip(AMINO_ACIDS)


def _matches(patterns, key):
    paths = dict.fromkeys(path for pattern in patterns for path in matching_files(pattern))
    if not paths:
        raise InputError(f"source.antibodies.{key}: {', '.join(patterns)} matches no file")
    return list(paths)


def single_linkage(junctions, fraction):
    """Group sequences of one length by single linkage.

    Two that differ in at most ``floor(fraction * length)`` letters are in one group.

    Parameters
    ----------
    junctions : list of str, all of one length
    fraction : float
        Largest Hamming distance of neighbours, relative to the length.

    Returns
    -------
    ndarray of int, shape (len(junctions),)
        Group numbers, from 0 in the order of first members.

    Notes
    -----
    Every distinct sequence is compared once with those that are in no group yet: at most half of all pairs;
    no distance is stored."""
    distinct, places = np.unique(np.array(junctions), return_inverse=True)
    length = len(junctions[0])
    letters = (
        np.frombuffer("".join(distinct.tolist()).encode("ascii"), np.uint8).reshape(-1, length).T.copy()
    )  # (length, distinct)
    most = math.floor(fraction * length + 1e-9)
    group = np.full(distinct.size, -1)
    free = np.arange(distinct.size)
    number = 0
    while free.size:
        front, free = free[:1], free[1:]
        group[front] = number
        while front.size and free.size:
            reached = np.zeros(free.size, bool)
            rows = max(1, _COMPARED // (free.size * 8))
            for start in range(0, front.size, rows):
                reached |= (_hamming(letters[:, front[start : start + rows]], letters[:, free]) <= most).any(
                    axis=0
                )
            front, free = free[reached], free[~reached]
            group[front] = number
        number += 1
    groups = group[places.reshape(-1)]
    _, first = np.unique(groups, return_index=True)
    order = np.empty(number, int)
    order[np.argsort(first)] = np.arange(number)
    return order[groups]


def _hamming(a, b):
    """Compute the Hamming distances of the columns of letters (length, A) and (length, B): (A, B)."""
    distance = np.zeros((a.shape[1], b.shape[1]), np.uint16)
    for one, other in zip(a, b, strict=True):
        distance += one[:, None] != other
    return distance


def _gene(call):
    """Return the gene of a call: the first of several, without its allele."""
    return call.split(",")[0].split("*")[0].strip()


def _unit_families(options, counts):
    """Yield (name, members) of the families of OAS units, one donor in memory at a time."""
    donors = {}
    for path in sorted(_matches(options.units, "units")):
        metadata = read_unit_metadata(path)
        if (
            metadata["Species"].lower() != options.species.lower()
            or metadata["Chain"].lower() != options.chain.lower()
        ):
            counts["units_of_others"] += 1
            continue
        counts["units"] += 1
        # Subjects are named per study; if the name is unknown, a sequencing run is taken for one person.
        known = str(metadata.get("Subject", "")).lower() not in _UNKNOWN_SUBJECTS
        donor = (
            ("subject", str(metadata.get("Author", "")), metadata["Subject"])
            if known
            else ("run", str(metadata.get("Run", path)))
        )
        donors.setdefault(donor, []).append(path)
    if not donors:
        units = f"none of {counts['units_of_others']} units is {options.species} {options.chain}"
        raise InputError(f"source.antibodies.units: {units}; expected some (keys species, chain)")
    for donor in sorted(donors):
        buckets = {}
        for path in donors[donor]:
            columns = read_columns(path, _UNIT_COLUMNS, skip_lines=1)
            for productive, v_call, j_call, sequence, junction in zip(
                *(columns[name] for name in _UNIT_COLUMNS), strict=True
            ):
                counts["sequences"] += 1
                if productive not in ("T", "True", "true", "TRUE"):
                    counts["not_productive"] += 1
                elif not (_is_sequence(sequence) and _is_sequence(junction) and v_call and j_call):
                    counts["other_letters"] += 1
                else:
                    buckets.setdefault((_gene(v_call), _gene(j_call), len(junction)), {}).setdefault(
                        (sequence, junction)
                    )
        for key in sorted(buckets):
            sequences, junctions = zip(*buckets[key], strict=True)
            groups = {}
            for sequence, group in zip(
                sequences, single_linkage(list(junctions), options.hamming).tolist(), strict=True
            ):
                groups.setdefault(group, {})[sequence] = None
            yield from (
                (f"{' '.join(map(str, (*donor, *key)))}, family {group}", list(members))
                for group, members in groups.items()
            )


def _file_families(options, counts):
    """Yield (name, members) of the families that another program made.

    A family is the rows of one ``clone_id``, or a whole file without such a column."""
    for path in _matches(options.families, "families"):
        counts["files"] += 1
        columns = read_columns(path, [_SEQUENCE], [_CLONE])
        sequences = columns[_SEQUENCE]
        groups = {}
        for row, (sequence, clone) in enumerate(
            zip(sequences, columns.get(_CLONE, itertools.repeat(None, len(sequences))), strict=True)
        ):
            counts["sequences"] += 1
            if clone == "":
                raise InputError(f"{path}: row {row} has an empty {_CLONE}; expected the id of its family")
            if _is_sequence(sequence):
                groups.setdefault(clone, {})[sequence] = None
            else:
                counts["other_letters"] += 1
        yield from (
            (f"{path}{'' if clone is None else f', {_CLONE} {clone}'}", list(members))
            for clone, members in groups.items()
        )


def _synthetic_families(options, counts):
    made = synthetic_families(options.synthetic.families, options.min_family, options.synthetic.seed)
    for number, members in enumerate(made):
        counts["sequences"] += len(members)
        yield f"synthetic family {number}", members


def family_document(members, max_tokens, rng, family):
    """Write a family's text: its members in random order, as many as fit, each whole.

    Parameters
    ----------
    members : list of str
        Sequences over the 20 amino acids.
    max_tokens : int
        Most tokens of the document, the end token included; the first member that does not fit ends it.
    rng : numpy.random.Generator
    family : str
        Name of the family in messages.

    Returns
    -------
    text : str
    kept : int
        Number of members in the text.

    Raises
    ------
    InputError
        The first member does not fit.
    """
    shuffled = [members[place] for place in rng.permutation(len(members))]
    # START; then each member with its separator, or with the end token
    tokens = 1 + np.cumsum([len(member) + 1 for member in shuffled])
    kept = int((tokens <= max_tokens).sum())
    if not kept:
        allowed = f"max_tokens is {max_tokens}, expected at least that"
        raise InputError(f"{family}: its first member needs {tokens[0]} tokens; {allowed}")
    return START + SEPARATOR.join(shuffled[:kept]), kept


def write_families(path, sidecar, options, seed, corpus_name):
    """Write a document ``{"text": ...}`` per family as jsonl, and a sidecar that counts families left out.

    Families of fewer than ``min_family`` different members are left out.

    Parameters
    ----------
    path, sidecar : path
        Files to write: the documents, and a JSON file with counts and the hashes of the inputs.
    options : tokenbounds.config.schema.Antibodies or dict
    seed : int
        The run's seed; a family's members are shuffled by the stream ``("families", corpus_name, number)``.
    corpus_name : str
        The corpus's key in the configuration: part of the stream's name.

    Raises
    ------
    InputError
        A glob that matches no file, a malformed file, no family that is large enough, or a member longer than
        ``max_tokens``.
    """
    options = Antibodies.model_validate(options)
    counts = Counter()
    kind = options.kind
    read = {"units": _unit_families, "families": _file_families, "synthetic": _synthetic_families}[kind]
    inputs = [] if kind == "synthetic" else _matches(getattr(options, kind), kind)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii") as handle:
        for family, members in read(options, counts):
            if len(members) < options.min_family:
                counts["smaller_families"] += 1
                continue
            rng = generator(seed, "families", corpus_name, counts["families"])
            text, kept = family_document(members, options.max_tokens, rng, family)
            handle.write(json.dumps({"text": text}) + "\n")
            counts.update(families=1, members=kept, members_left_out=len(members) - kept)
        if not counts["families"]:
            smaller = counts["smaller_families"]
            reason = f"the largest of {smaller} is smaller" if smaller else "there is none"
            raise InputError(
                f"source.antibodies.{kind}: no family of min_family {options.min_family} members; {reason}"
            )
        handle.flush()
    facts = {"synthetic": kind == "synthetic", "counts": dict(sorted(counts.items())), "seed": seed}
    write_json(sidecar, provenance(options.model_dump(exclude_none=True), inputs, **facts))
