"""The draws of a message: which tokens, windows or documents are scored with it, and in which part."""

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.corpus.contexts import document_items, token_items, window_items
from tokenbounds.corpus.sampling import draw, draw_key
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file


def message_draws(message_path, index, context, n, beacon=""):
    """Derive the draws of the message in a file (docs/theory.md, section 10).

    Parameters
    ----------
    message_path : path
    index : tokenbounds.corpus.store.CorpusIndex
    context : dict
        Scheme: ``mode``, ``context_length`` and, for windows, ``window``.
    n : int
        Number of draws.
    beacon : str
        See `tokenbounds.corpus.sampling.draw_key`.

    Returns
    -------
    DataFrame
        See `tokenbounds.corpus.sampling.draw`.
    key : bytes
        The key that they were derived from.
    """
    key = draw_key(sha256_file(message_path), index.identity, context, n, beacon)
    return draw(index, context, n, key), key


def draw_items(message, store, draws, context, *, part=0, parts=1, name="message"):
    """Yield the items of the draws of one part, in draw order (see `tokenbounds.corpus.contexts.Item`).

    Parts are consecutive draws, so the records of all parts, joined, are in draw order::

        draws     0 1 2 3 | 4 5 6 7 | 8 9 ...
        part         0    |    1    |    2

    Parameters
    ----------
    message : tokenbounds.codecs.frame.Message
    store : tokenbounds.corpus.store.TokenStore
    draws : DataFrame
        Those of the message (`message_draws`).
    context : dict
        Their scheme.
    part, parts : int
        Number of the part, from 0, and number of parts.
    name : str
        Name of the message in errors.
    """
    vocab_size = message.config["hypothesis"]["vocab_size"]
    if vocab_size != store.vocab_size:
        expected = f"the corpus' vocabulary of {store.vocab_size}"
        raise InputError(f"{name}: the model predicts {vocab_size} tokens; expected {expected}")
    rule = context_rule(message, context, name)
    first, stop = (len(draws) * number // parts for number in (part, part + 1))
    if context["mode"] == "token":
        yield from token_items(store, draws["position"][first:stop], rule, first)
    elif context["mode"] == "document":
        yield from document_items(store, draws["document"][first:stop], rule, first)
    else:
        yield from window_items(store, draws["window"][first:stop], context["window"], rule, first)
