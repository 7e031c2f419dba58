"""Closed form of a message's config: nothing else may stand in it, so that no message holds free text or a
number that nothing is computed from.

====================  ====================================================================================
message of            keys
====================  ====================================================================================
a model               ``hypothesis``; ``contexts``: ``arithmetic``, and ``schemes``, a list of ``{mode,
                      context_length}`` with ``window`` in mode window, distinct and sorted by their
                      canonical JSON
published files       besides ``files``, a list of ``{name, bytes, sha256}`` (the configuration, the index if
(codec ``zip``)       any, the weights), and ``compressed_bytes``
a smoothing head      ``alpha_head``: ``low``, ``high``
====================  ====================================================================================

Nothing here needs torch. A hypothesis of a family with tensors is checked in full when the message is
decoded (`tokenbounds.codecs.hypotheses`), because the schema of its family comes with its model.
"""

import re
from pathlib import PurePosixPath
from typing import Literal

from pydantic import PositiveInt

from tokenbounds.config.schema import Arithmetic, HypothesisConfig, slice_of
from tokenbounds.config.schema.base import checked
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json
from tokenbounds.models.folders import CONFIG_FILE, WEIGHTS_FILE
from tokenbounds.models.registry import FAMILIES

INDEX_FILE = "model.safetensors.index.json"
MODES = ("token", "window", "document")
FILES_CODEC = "zip"
HEAD_CODEC = {"kind": "float16"}
_MOST = 2**63 - 1
_MOST_TOKENS = 2**31 - 1
_MOST_PADDED = 2**20  # so much memory a stranger's message may ask for where it is scored again
_HASH = re.compile("[0-9a-f]{64}")


class PublishedConfig(HypothesisConfig):
    """Hypothesis configuration of a checkpoint that is its own message: facts that its files do not state."""

    family: Literal["pretrained", "gguf", "quip"]
    context_length: PositiveInt


def check_config(config, kind, name="message"):
    """Refuse the config of a message of a model that does not hold exactly what it must.

    Parameters
    ----------
    config : dict
        As in the header.
    kind : str
        The message's codec.
    name : str
        Name of the message in errors.

    Raises
    ------
    InputError
        A key or value that must not be there, or not like this, or that is missing.
    """
    files = kind == FILES_CODEC
    keys = ["contexts", "hypothesis", *(["compressed_bytes", "files"] if files else [])]
    _check_keys(config, keys, f"{name}: the config")
    check_contexts(config["contexts"], name)
    if files:
        canonical(PublishedConfig, config["hypothesis"], f"{name}: hypothesis")
        check_whole(config["compressed_bytes"], f"{name}: compressed_bytes")
        _check_files(config["files"], config["hypothesis"]["family"], name)
    else:
        _check_facts(config["hypothesis"], f"{name}: hypothesis")


def check_contexts(contexts, name="message"):
    """Refuse `contexts` of a config that are not in canonical form, as `check_config` does."""
    place = f"{name}: contexts"
    _check_keys(contexts, ["arithmetic", "schemes"], place)
    arithmetic = canonical(Arithmetic, contexts["arithmetic"], f"{place}.arithmetic")
    for key in ("multiple", "batch_tokens"):
        check_whole(getattr(arithmetic, key), f"{place}.arithmetic.{key}", _MOST_PADDED)
    schemes = contexts["schemes"]
    if not isinstance(schemes, list) or not schemes:
        raise InputError(f"{place}.schemes is {_short(schemes)}; expected a list of at least one")
    for number, scheme in enumerate(schemes):
        check_entry(scheme, f"{place}.schemes[{number}]")
    texts = [canonical_json(scheme) for scheme in schemes]
    if texts != sorted(set(texts)):
        raise InputError(f"{place}.schemes are {_short(schemes)}; expected distinct ones, sorted")


def check_entry(entry, place):
    """Refuse an entry of ``contexts.schemes`` that is not valid; `place` names it in errors."""
    mode = entry.get("mode") if isinstance(entry, dict) else None
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"{place} is {_short(entry)}; expected a mode, one of {', '.join(MODES)}")
    _check_keys(entry, ["context_length", "mode", *(["window"] if mode == "window" else [])], place)
    for key in entry.keys() - {"mode"}:
        check_whole(entry[key], f"{place}.{key}", _MOST_TOKENS)
    if entry.get("window", 0) > entry["context_length"]:
        raise InputError(
            f"{place}: window {entry['window']} is longer than context_length {entry['context_length']}"
        )


def check_head(config, codec, layout, name="message"):
    """Refuse a header that is not that of a smoothing head's message: its codec and layout too."""
    _check_keys(config, ["alpha_head"], f"{name}: the config")
    ends = config["alpha_head"]
    _check_keys(ends, ["high", "low"], f"{name}: alpha_head")
    if not (type(ends["low"]) is type(ends["high"]) is float and 0 < ends["low"] < ends["high"] < 1):
        raise InputError(f"{name}: alpha_head is {_short(ends)}; expected numbers 0 < low < high < 1")
    if canonical_json(codec) != canonical_json(HEAD_CODEC):
        raise InputError(f"{name}: a smoothing head of codec {_short(codec)}; expected {HEAD_CODEC['kind']}")
    shapes = dict(layout) if isinstance(layout, list) and all(_is_entry(entry) for entry in layout) else {}
    if list(shapes) != ["weight", "bias"] or len(shapes["weight"]) != 1 or shapes["bias"] != [1]:
        expected = "weight of shape [width + 1] and bias of shape [1]"
        raise InputError(f"{name}: a smoothing head of tensors {_short(layout)}; expected {expected}")


def check_whole(value, place, most=_MOST):
    """Refuse anything but a whole number from 1 to `most`; `place` names it in errors."""
    if type(value) is not int or not 1 <= value <= most:
        raise InputError(f"{place} is {_short(value)}; expected a whole number from 1 to {most}")


def canonical(section, data, place):
    """Check data against the schema `section`, and that they are its canonical dump: nothing is coerced and
    no default absent.

    Returns
    -------
    Section
    """
    parsed = checked(section, data, place)
    refuse_difference(data, slice_of(parsed), place)
    return parsed


def refuse_difference(stored, expected, place):
    """Refuse a stored JSON object other than the `expected` one; names the first key, in sorted order."""
    if canonical_json(stored) == canonical_json(expected):
        return
    for key in sorted({*stored, *expected}):
        found, wanted = (canonical_json(part[key]) if key in part else None for part in (stored, expected))
        if found != wanted:
            found, wanted = (text if text is None else f"{text:.80}" for text in (found, wanted))
            raise InputError(f"{place}.{key} is {found or 'absent'}; expected {wanted or 'no such key'}")


def _check_keys(value, keys, place):
    if not isinstance(value, dict):
        raise InputError(f"{place} is {_short(value)}; expected keys with values")
    if value.keys() != {*keys}:
        found = ", ".join(sorted(value)) or "nothing"
        raise InputError(f"{place} holds {found:.200}; expected exactly {', '.join(keys)}")


def _check_facts(hypothesis, place):
    """Check what every hypothesis states, and that its family is known."""
    if not isinstance(hypothesis, dict):
        raise InputError(f"{place} is {_short(hypothesis)}; expected keys with values")
    family = hypothesis.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(
            f"{place}: family {_short(family)} is not known; expected one of {', '.join(FAMILIES)}"
        )
    facts = {key: hypothesis[key] for key in HypothesisConfig.model_fields if key in hypothesis}
    canonical(HypothesisConfig, facts, place)


def _check_files(files, family, name):
    """Check the list of files: names without a folder, the configuration first, then one file of weights or
    an index and several; or one GGUF file."""
    if not isinstance(files, list) or not files:
        raise InputError(f"{name}: files is {_short(files)}; expected a list of files")
    for number, entry in enumerate(files):
        place = f"{name}: files[{number}]"
        _check_keys(entry, ["bytes", "name", "sha256"], place)
        check_whole(entry["bytes"], f"{place}.bytes")
        if not isinstance(entry["name"], str) or not _is_plain(entry["name"]):
            raise InputError(f"{place}.name is {_short(entry['name'])}; expected a name without a folder")
        if not isinstance(entry["sha256"], str) or not _HASH.fullmatch(entry["sha256"]):
            raise InputError(f"{place}.sha256 is {_short(entry['sha256'])}; expected 64 hexadecimal digits")
    names = [entry["name"] for entry in files]
    if family == "gguf":
        if len(names) != 1 or not names[0].endswith(".gguf"):
            raise InputError(f"{name}: files are {', '.join(names):.200}; expected one GGUF file")
        return
    weights = names[2:] if names[1:2] == [INDEX_FILE] else names[1:]
    plain = all(weight.endswith(".safetensors") for weight in weights) and len({*names}) == len(names)
    alone = weights == [WEIGHTS_FILE] if INDEX_FILE not in names else WEIGHTS_FILE not in weights
    if names[0] != CONFIG_FILE or not weights or not plain or not alone:
        expected = f"{CONFIG_FILE}, then {WEIGHTS_FILE}, or {INDEX_FILE} and the files that it names"
        raise InputError(f"{name}: files are {', '.join(names):.200}; expected {expected}")


def _is_plain(name):
    return name.isprintable() and name not in ("", ".", "..") and PurePosixPath(name).name == name


def _is_entry(entry):
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], list)
        and all(type(length) is int and length > 0 for length in entry[1])
    )


def _short(value):
    return f"{canonical_json(value):.80}"
