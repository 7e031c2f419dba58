"""The hypothesis in a message: the configuration of its family, stated in one way only."""

from tokenbounds.codecs.config_checks import refuse_difference
from tokenbounds.config.schema import slice_of
from tokenbounds.models.registry import errors_named, family_class


def canonical_hypothesis(config, name="model config"):
    """Return a hypothesis' configuration as its message holds it.

    Every key has a value, also where it is the default, except those that change no prediction: they are
    left out wherever they stand.

    ================  ===================================================================================
    left out          because
    ================  ===================================================================================
    ``dropout``       it acts in training only
    ``init``          a model without structure and subspace draws nothing: its message holds all weights
    ``last_tokens``   where it is not below the longest input, no prediction sees fewer tokens
    ================  ===================================================================================

    A family may leave out more: its method ``canonical(config)`` returns a configuration without it, or
    raises an `InputError`.

    Parameters
    ----------
    config : dict
    name : path or str
        Source of the configuration, for errors.

    Raises
    ------
    InputError
        The configuration does not fit the schema of its family.
    """
    family = family_class(config, name)
    dump = _without_dropout(slice_of(family.Config.model_validate(config)))
    if hasattr(family, "canonical"):
        dump = errors_named(name, family.canonical, dump)
    if dump["family"] == "gpt":
        if not (dump.get("structure") or dump.get("subspace")):
            dump.pop("init", None)
        if dump.get("last_tokens", 0) >= dump["architecture"]["context_length"]:
            dump.pop("last_tokens")
    return dump


def check_hypothesis(config, name):
    """Refuse a hypothesis that is not in the form of `canonical_hypothesis`."""
    refuse_difference(config, canonical_hypothesis(config, name), f"{name}: hypothesis")


def _without_dropout(value):
    if isinstance(value, dict):
        return {key: _without_dropout(part) for key, part in value.items() if key != "dropout"}
    return value
