"""Sweeps: one entry of the configuration for many models or codecs.

::

    lora:                                      lora-2-0_5:  structure.rank 2, learning_rate 0.5
      sweep:                                   lora-2-1_0:  structure.rank 2, learning_rate 1.0
        structure.rank: [2, 4]                 lora-4-0_5:  structure.rank 4, learning_rate 0.5
        training.learning_rate: [0.5, 1.0]     lora-4-1_0:  structure.rank 4, learning_rate 1.0
"""

import copy
import itertools
import json
import re

from tokenbounds.errors import InputError


def expand_sweeps(data, name):
    """Replace each model and codec that has `sweep` by its members, and its name in rows by theirs.

    ``sweep`` is a mapping from dotted keys to lists (every combination) or a list of mappings from dotted
    keys to values (these points). A member is named after its values. A row or series that names a sweep
    takes the best of its members; a row with ``each: true`` stands for one row per member, and its label may
    use the values: ``"LoRA, r = {rank}"``.
    """
    members: dict[str, dict[str, dict]] = {"models": {}, "codecs": {}}  # by kind, name of sweep, and member
    if not isinstance(data, dict):
        return data
    for kind, sweeps in members.items():
        entries = data.get(kind)
        if not isinstance(entries, dict):
            continue
        expanded = {}
        for key, entry in entries.items():
            if not isinstance(entry, dict) or "sweep" not in entry:
                expanded[key] = entry
                continue
            sweeps[key] = {}
            for point in _points(entry["sweep"], f"{name}: {kind}.{key}.sweep"):
                member = "-".join(
                    [key, *(re.sub(r"[^A-Za-z0-9_-]", "_", str(value)) for value in point.values())]
                )
                if member in expanded or member in entries:
                    raise InputError(
                        f"{name}: {kind}.{key}.sweep: a member would be called '{member}', which is taken; "
                        "expected another name"
                    )
                sweeps[key][member] = {path.rpartition(".")[2]: value for path, value in point.items()}
                expanded[member] = _with(
                    {other: value for other, value in entry.items() if other != "sweep"}, point
                )
        data[kind] = expanded
    for table in _entries(data, "tables"):
        if isinstance(table.get("rows"), list):
            table["rows"] = [row for entry in table["rows"] for row in _expand_row(entry, members, name)]
    for figure in _entries(data, "figures"):
        figure |= {key: _members_named(figure[key], members) for key in ("series", "heads") if key in figure}
    return data


def _entries(data, key):
    """List the mappings under a key; the schema refuses anything else."""
    entries = data.get(key)
    return (
        [entry for entry in entries.values() if isinstance(entry, dict)] if isinstance(entries, dict) else []
    )


def _points(sweep, place):
    """List the points of a sweep, as mappings from dotted keys to values."""
    if (
        isinstance(sweep, dict)
        and sweep
        and all(isinstance(values, list) and values for values in sweep.values())
    ):
        return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    if isinstance(sweep, list) and sweep and all(isinstance(point, dict) and point for point in sweep):
        return sweep
    raise InputError(
        f"{place}: {short(sweep)}; expected keys with lists of values, or a list of keys with values"
    )


def _with(entry, point):
    """Copy `entry` and set the values of `point` at their dotted keys."""
    entry = copy.deepcopy(entry)
    for path, value in point.items():
        *sections, key = path.split(".")
        inner = entry
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                passed = f"'{path}' leads through {section}: {short(inner)}"
                raise InputError(f"sweep: {passed}; expected a section with keys there")
        inner[key] = value
    return entry


def _expand_row(row, members, name):
    """List a row itself, or with ``each: true`` a row per member of the sweeps it names."""
    if not isinstance(row, dict):
        return [row]
    row = dict(row)
    if not row.pop("each", False):
        return [_members_named(row, members)]
    swept = [
        (key, members[f"{key}s"][row[key]])
        for key in ("model", "codec")
        if _is_sweep(row.get(key), members[f"{key}s"])
    ]
    if not swept:
        raise InputError(f"{name}: row {short(row)}: each goes with a model or codec that has a sweep")
    rows = []
    for chosen in itertools.product(*(sweep.items() for _, sweep in swept)):
        values = {key: value for _, point in chosen for key, value in point.items()}
        try:
            label = str(row.get("label", "")).format(**values)
        except (KeyError, IndexError, ValueError) as error:
            keys = ", ".join(values)
            raise InputError(
                f"{name}: label {short(row.get('label'))}: {error}; expected only {keys} in braces"
            ) from None
        rows.append(
            {
                **row,
                "label": label,
                **{key: member for (key, _), (member, _) in zip(swept, chosen, strict=True)},
            }
        )
    return rows


def _is_sweep(value, sweeps):
    return isinstance(value, str) and value in sweeps


def _members_named(value, members):
    """Replace names of sweeps by lists of their members, wherever `value` names models or codecs."""
    if isinstance(value, list):
        return [_members_named(item, members) for item in value]
    if not isinstance(value, dict):
        return value
    kinds = {"model": "models", "models": "models", "codec": "codecs"}
    return {
        key: _names(item, members[kinds[key]]) if key in kinds else _members_named(item, members)
        for key, item in value.items()
    }


def _names(value, sweeps):
    """Return a name or a list of names as a list without names of sweeps; the schema refuses anything
    else."""
    values = value if isinstance(value, list) else [value]
    return [member for item in values for member in (sweeps[item] if _is_sweep(item, sweeps) else [item])]


def short(value):
    """Format a value as JSON, cut to 60 characters, for messages."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
