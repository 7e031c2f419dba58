"""Context of a hypothesis: how much a prediction sees under a sampling scheme."""

from tokenbounds.corpus.contexts import ContextRule
from tokenbounds.errors import InputError
from tokenbounds.models.registry import context_length_of


def context_rule(message, sampling, name="message"):
    """Return the `ContextRule` of a hypothesis under a sampling scheme.

    Parameters
    ----------
    message : Header or tokenbounds.codecs.frame.Message
    sampling : str
        Name of the scheme.
    name : str
        Name of the message in errors.

    Raises
    ------
    InputError
        The message does not list the scheme, or its window is longer than the model's context.
    """
    contexts, hypothesis = message.config["contexts"], message.config["hypothesis"]
    if sampling not in contexts:
        schemes = ", ".join(contexts)
        raise InputError(
            f"{name}: the message knows the sampling schemes {schemes}; expected '{sampling}' among them"
        )
    length = min(contexts[sampling]["context_length"], context_length_of(hypothesis))
    window = contexts[sampling].get("window")
    if window is not None and window > length:
        raise InputError(f"{name}: window {window} is longer than the model's context of {length} tokens")
    return ContextRule(length, hypothesis["start_token"], hypothesis["eot_id"])
