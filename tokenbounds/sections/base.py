"""What the sections of the configuration have in common: their base, names, probabilities, grids."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _check_name(name):
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name '{name}' must be letters, digits, '-' and '_' only: it becomes a file name")
    return name


def _check_commit(revision):
    if revision != "latest" and not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"'{revision}' is not a commit (40 hexadecimal digits); a branch or tag can move; or 'latest'")
    return revision


Name = Annotated[str, AfterValidator(_check_name)]
Commit = Annotated[str, AfterValidator(_check_commit)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Alpha = Annotated[float, Field(gt=0, le=1)]


def as_list(value):
    """One name where a list of names may stand, as a list."""
    return [value] if isinstance(value, str) else value


def _check_grid(values):
    if len(set(values)) != len(values):
        raise ValueError(f"grid {values} holds a value twice: it would be paid for twice")
    return values


Grid = AfterValidator(_check_grid)


class Section(BaseModel):
    """Base of all sections: closed and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _exactly_one(self, *keys):
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(keys)} is needed, found {', '.join(given) or 'none'}")
        return given[0]


def slice_of(section, *, include=None, exclude=None):
    """Part of a section as plain JSON data: what a rule passes to its script, so that other keys do not make its output stale."""
    return section.model_dump(mode="json", exclude_none=True, include=include, exclude=exclude)
