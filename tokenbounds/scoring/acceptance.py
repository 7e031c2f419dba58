"""Acceptance of published models: sizes of the sanity check, and refusal of a model that fails it."""

from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json

DOCUMENTS = 20
LIMIT = (
    3  # the random guess over this is the largest loss: damaged models of 6.6 bits at 15 have been released
)
MOST_TOKENS = 512  # per document: a damaged model shows its damage early


def check_passed(path, accept, name):
    """Refuse a model whose sanity check, the file at `path`, was bad, unless `accept`."""
    check = read_json(path)
    if check["bad"] and not accept:
        loss, limit, reason = check["bits_per_token"], check["limit"], check["limit_is"]
        published = check.get("published_bits_per_token")
        known = "" if published is None else f" ({published:.2f} published for the model as released)"
        raise InputError(
            f"{name}: {loss:.2f} bits per token on {check['documents']} documents{known}; "
            f"expected at most {limit:.2f}, {reason}: "
            "its files may be damaged or not fit the corpus' tokenizer "
            "(accept_bad_models: true in the configuration goes on all the same)"
        )
