"""Published models from their source: a folder in the format of the transformers library, or a GGUF file."""

from pathlib import Path

from tokenbounds.models.gguf import read_gguf
from tokenbounds.models.pretrained import read_folder


def start_facts(section, tokenizer):
    """Say which predictions of a published model begin with a start token, and which token it is.

    A model that was trained with a token before each text (BOS) expects it there; its tokenizer tells by
    putting one before a text.

    Parameters
    ----------
    section : dict
        The model's section of the configuration: ``start_token`` and ``start_id``, both optional.
    tokenizer : object
        With ``eot_id`` and ``bos_id``, as a `tokenbounds.corpus.text_tokenizers.TextTokenizer`.

    Returns
    -------
    dict
        ``start_token``, and ``start_id`` unless it is the EOT's.
    """
    given = section.get("start_id", tokenizer.bos_id)
    start_token = section.get("start_token") or ("first" if given is None else "always")
    own = {} if given is None or given == tokenizer.eot_id else {"start_id": given}
    return {"start_token": start_token, **own}


def read_published(source, section, tokenizer):
    """Read a published model from its source.

    Parameters
    ----------
    source : path
        A folder, or a GGUF file, whose tokenizer must then be that of the corpus.
    section : dict
        The model's section of the configuration.
    tokenizer : tokenbounds.corpus.text_tokenizers.TextTokenizer
        That of the corpus whose tokens are predicted.

    Returns
    -------
    model, config
        As `tokenbounds.models.pretrained.read_folder`.

    Raises
    ------
    InputError
        See `tokenbounds.models.pretrained.read_folder` and `tokenbounds.models.gguf.read_gguf`.
    """
    options = {"vocab_size": tokenizer.vocab_size, "eot_id": tokenizer.eot_id}
    options |= {"context_length": section.get("context_length"), **start_facts(section, tokenizer)}
    return read_source(source, spelling=tokenizer.spelling, **options)


def read_source(source, *, spelling=None, **facts):
    """Read a model from a folder, or from a GGUF file, whose tokenizer must then have this spelling.

    Parameters
    ----------
    source : path
    spelling
        See `tokenbounds.models.gguf.read_gguf`; a folder's tokens are not compared.
    **facts
        See `tokenbounds.models.pretrained.read_folder`.

    Returns
    -------
    model, config
        As `tokenbounds.models.pretrained.read_folder`.
    """
    if Path(source).suffix == ".gguf":
        return read_gguf(source, spelling=spelling, **facts)
    return read_folder(source, **facts)


def published_inputs(source):
    """List the files of a source whose hashes are recorded: the GGUF file, or configurations and weights."""
    source = Path(source)
    if source.suffix == ".gguf":
        return [source]
    return [path for path in sorted(source.iterdir()) if path.suffix in (".json", ".safetensors")]
