"""Places of errors in the configuration: from pydantic's location to the sections that hold the key."""

from typing import get_args, get_origin

from pydantic import BaseModel

from tokenbounds.config.run import Config


def location_in_schema(location):
    """Split a location of pydantic into keys and sections.

    Parameters
    ----------
    location : sequence of str or int
        Keys, and the kinds that choose between sections: ``("codecs", "a", "levels", "tuning", "step")``.

    Returns
    -------
    kept : list of str or int
        The location without the kinds.
    sections : list of section classes
        Those that the last known part of the location may mean.
    """
    sections, kept, keys = [Config], [], 0  # keys: of a dictionary or a list, before a section
    for part in location:
        fields = sections[0].model_fields
        chosen = [section for section in sections if len(sections) > 1 and part in kinds_of(section)]
        if chosen and not keys:
            sections = chosen
            continue
        kept.append(part)
        if keys:
            keys -= 1
        elif part in fields:
            sections = _sections_in(fields[part].annotation) or sections
            keys = _containers(fields[part].annotation)
    return kept, sections


def _containers(annotation):
    """Count the dictionaries and lists that a field's type nests around its sections."""
    inner = [argument for argument in get_args(annotation) if _sections_in(argument)]
    return (get_origin(annotation) in (dict, list)) + (_containers(inner[0]) if inner else 0)


def kinds_of(section):
    """Return the values of the key `kind` or `family` that choose this section."""
    kind = section.model_fields.get("kind") or section.model_fields.get("family")
    return get_args(kind.annotation) if kind else ()


def _sections_in(annotation):
    """List the sections in a field's type, those inside dictionaries and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections_in(argument)]
