"""Parts common to the sections of the configuration: their base class, names, probabilities, grids."""

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tokenbounds.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_name(name):
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name '{name}' must be letters, digits, '-' and '_' only: it becomes a file name"
        )
    return name


def _check_commit(revision):
    if revision != "latest" and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(
            f"'{revision}' is not a commit (40 hexadecimal digits); a branch or tag can move; or 'latest'"
        )
    return revision


Name = Annotated[str, AfterValidator(_check_name)]
Commit = Annotated[str, AfterValidator(_check_commit)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Alpha = Annotated[float, Field(gt=0, le=1)]


def as_list(value):
    """Return a single name as a list of one; a list of names stays."""
    return [value] if isinstance(value, str) else value


def _check_grid(values):
    if len(set(values)) != len(values):
        raise ValueError(f"grid {values} holds a value twice: it would be counted twice")
    return values


Grid = AfterValidator(_check_grid)


class Section(BaseModel):
    """Base of all sections: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _exactly_one(self, *keys):
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(keys)} is needed, found {', '.join(given) or 'none'}"
            )
        return given[0]


def slice_of(section, *, include=None, exclude=None):
    """Return part of a section as plain JSON data. A rule passes such a part to its script, so that other
    keys do not make its output stale."""
    return section.model_dump(mode="json", exclude_none=True, include=include, exclude=exclude)


def checked(section, data, place):
    """Check `data` against the schema `section` (a `tokenbounds.config.schema.Section`).

    Returns
    -------
    Section

    Raises
    ------
    InputError
        The data does not fit; names `place`, the key and the value.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, _in_data(first["loc"], data))) or "the configuration"
        given = re.sub(r"\s+", " ", repr(first["input"]))
        raise InputError(
            f"{place}: {key}: {first['msg'].removeprefix('Value error, ')} (found {given:.60})"
        ) from None


def _in_data(location, data):
    """Return a location without the parts that are no keys of the data: the kinds that choose between
    sections."""
    kept = []
    for number, part in enumerate(location, start=1):
        if isinstance(data, dict) and part not in data and number < len(location):
            continue
        kept.append(part)
        data = data.get(part) if isinstance(data, dict) else None
    return kept


def known(place, value, names):
    """Refuse a name that is not one of `names`, with a ValueError that names `place` and the nearest one."""
    if value not in names:
        defined = ", ".join(names) or "(none defined)"
        raise ValueError(
            f"{place}: '{value}' is not defined{nearest_hint(value, names)}; expected one of {defined}"
        )


def nearest_hint(word, candidates):
    """Suggest the one of some names that a misspelt word may mean; empty if none is near."""
    close = difflib.get_close_matches(str(word), list(candidates), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
