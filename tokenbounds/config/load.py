"""Reading of the configuration: one closed, described schema.

Every key has a description, unknown keys are errors that name the nearest valid key, and cross references (a
row's model, codec, corpus) are checked when the configuration is read, before any job starts.
``docs/config.schema.json`` is generated from these classes (``python -m tokenbounds.config.load``); a test
fails when it drifts.

Importing this module does not import torch: the Snakefile reads the configuration in every cluster job.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tokenbounds.config.error_messages import kinds_of, location_in_schema
from tokenbounds.config.run import Config
from tokenbounds.config.schema.base import nearest_hint
from tokenbounds.config.sweeps import expand_sweeps, short
from tokenbounds.errors import InputError
from tokenbounds.io.files import is_excluded, write_json


def _without_nulls(data):
    """Drop keys whose value is null, and those that match a key with `*` whose value is null: an overlay
    removes entries of the files below it in this way."""
    if isinstance(data, dict):
        globs = [key for key, value in data.items() if value is None and "*" in str(key)]
        kept = {
            key: value
            for key, value in data.items()
            if value is not None and not is_excluded(str(key), globs)
        }
        return {key: _without_nulls(value) for key, value in kept.items()}
    return [_without_nulls(value) for value in data] if isinstance(data, list) else data


def parse_config(data: Any, name="config") -> Config:
    """Check a configuration (nested dictionaries, as read from YAML) against the schema.

    A null value counts as absent, so that an overlay can remove entries of the files below it:
    ``gpt2-lora: null`` removes one entry, ``gpt2-*: null`` all that match.

    Raises
    ------
    InputError
        One line: the key, its value and the expected one, with the nearest valid key for an unknown one.
    """
    try:
        return Config.model_validate(expand_sweeps(_without_nulls(data), name))
    except ValidationError as error:
        # A misspelt key is also a missing one: the cause is reported, not its consequence.
        first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
        location, sections = location_in_schema([part for part in first["loc"] if part != "[key]"])
        place = ".".join(map(str, location)) or "the configuration"
        if first["type"] == "extra_forbidden":
            keys = list(sections[0].model_fields)  # of the section that holds the unknown key
            hint, valid = nearest_hint(location[-1], keys), ", ".join(keys)
            raise InputError(
                f"{name}: unknown key '{place}' (value {short(first['input'])}){hint}; valid keys: {valid}"
            ) from None
        if first["type"] == "missing":
            raise InputError(f"{name}: '{place}' is missing") from None
        if first["type"] in ("union_tag_not_found", "union_tag_invalid"):
            kinds = " or ".join(kind for section in sections for kind in kinds_of(section))
            key = first["ctx"]["discriminator"].strip("'")
            given = first["input"].get(key) if isinstance(first["input"], dict) else first["input"]
            raise InputError(f"{name}: {place}.{key}: found {short(given)}; expected {kinds}") from None
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] == "value_error" else f" (found {short(first['input'])})"
        raise InputError(f"{name}: {place}: {message}{value}") from None


def load_config(*paths) -> Config:
    """Read YAML files, each laid over the one before (nested mappings are merged, anything else is replaced,
    as Snakemake does). Below one with ``standalone: true`` nothing is read."""
    import yaml

    merged: dict = {}
    for path in paths:
        try:
            overlay = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except yaml.YAMLError as error:
            raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
        if not isinstance(overlay, dict):
            raise InputError(f"{path}: a {type(overlay).__name__}; expected keys with values")
        if overlay.get("standalone"):
            merged = {}
        _merge(merged, overlay)
    return parse_config(merged, " + ".join(map(str, paths)))


def _merge(base, overlay):
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def json_schema():
    """Return the JSON schema of the configuration, as committed in docs/config.schema.json."""
    return Config.model_json_schema()


if __name__ == "__main__":
    write_json(Path(__file__).parents[2] / "docs/config.schema.json", json_schema())
