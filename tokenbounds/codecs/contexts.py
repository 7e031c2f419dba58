"""Context of a hypothesis: how much a prediction sees under a sampling scheme."""

from tokenbounds.codecs.config_checks import check_entry
from tokenbounds.corpus.contexts import ContextRule
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json
from tokenbounds.models.registry import context_length_of, start_id_of


def context_rule(message, entry, name="message"):
    """Return the `ContextRule` of a hypothesis under a sampling scheme.

    Parameters
    ----------
    message : Header or tokenbounds.codecs.frame.Message
    entry : dict
        ``mode``, ``context_length`` and in mode window ``window`` of the scheme, as
        `tokenbounds.config.run.Config.context` returns them: one of the message's ``contexts.schemes``.
    name : str
        Name of the message in errors.

    Raises
    ------
    InputError
        The message does not list the scheme, or its window is longer than the model's context.
    """
    check_entry(entry, f"{name}: the sampling scheme")
    schemes = [canonical_json(scheme) for scheme in message.config["contexts"]["schemes"]]
    if canonical_json(entry) not in schemes:
        raise InputError(
            f"{name}: the message knows the sampling schemes {', '.join(schemes)}; "
            f"expected {canonical_json(entry)} among them"
        )
    hypothesis = message.config["hypothesis"]
    try:
        longest = context_length_of(hypothesis)
    except (KeyError, TypeError):  # a header is read without the schema of its family
        longest = None
    if type(longest) is not int or longest < 0:
        raise InputError(f"{name}: the hypothesis has no longest input; expected a whole number of tokens")
    length, window = min(entry["context_length"], longest), entry.get("window")
    if window is not None and window > length:
        raise InputError(f"{name}: window {window} is longer than the model's context of {length} tokens")
    return ContextRule(length, hypothesis["start_token"], start_id_of(hypothesis))
