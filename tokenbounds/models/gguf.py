"""Published models in GGUF files: read by the transformers library, which unpacks their weights to float32.

The library knows the architectures, the names of the tensors and the order of their rows; every tensor is
checked against the model that the file's configuration describes, as for a checkpoint of safetensors.
"""

from pathlib import Path

from tokenbounds.errors import InputError
from tokenbounds.io.gguf import read_facts, read_tokenizer, readable
from tokenbounds.models.pretrained import check_size, filled_model, from_library


def read_gguf(
    path, *, vocab_size, eot_id, start_token="first", start_id=None, context_length=None, spelling=None
):
    """Read a model from a GGUF file.

    Parameters
    ----------
    path : path
    vocab_size, eot_id, start_token, start_id, context_length
        See `tokenbounds.models.pretrained.read_folder`.
    spelling : callable (int) -> str or None, optional
        How the corpus' tokenizer spells a token in its own file (None for an unused id); the file's own
        tokenizer is then compared with it.

    Returns
    -------
    model : CausalLM
        In evaluation mode, float32, on the CPU.
    config : dict
        Its hypothesis configuration, a `CausalLMConfig`: the same as that of the checkpoint in safetensors.

    Raises
    ------
    InputError
        The file is cut off or malformed, of an architecture or with a kind of tensor that the library does
        not read, or does not hold the tensors of its configuration; fewer tokens than `vocab_size`;
        a token of the corpus' tokenizer is spelled otherwise in the file, or is not in it.
    """
    from transformers import AutoConfig

    path = Path(path)
    facts = read_facts(path)
    if spelling is not None:
        _check_tokens(path, facts, spelling, vocab_size)
    with readable(path):
        source = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
        try:
            lm_config = AutoConfig.from_pretrained(path.parent, **source)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"{path}: architecture '{facts.architecture:.40}' ({' '.join(str(error).split()):.100}); "
                "expected one that the transformers library reads from GGUF, such as llama or qwen2"
            ) from None
    entries = lm_config.to_dict()
    entries.pop("quantization_config", None)
    hypothesis = {"vocab_size": vocab_size, "eot_id": eot_id, "start_token": start_token}
    hypothesis |= {"start_id": start_id, "context_length": context_length}

    def load(model):
        with readable(path):
            check_size(path, facts.values, model)
            return from_library(model, path, {}, path.parent, gguf_file=path.name)

    return filled_model(path, entries, hypothesis, load)


def _check_tokens(path, facts, spelling, vocab_size):
    """Refuse a tokenizer that is not the one in a GGUF file."""
    own = read_tokenizer(path, facts)
    for token in range(vocab_size):
        if (given := spelling(token)) is not None and given != (stored := own.id_to_token(token)):
            raise InputError(
                f"{path}: its token {token} is {stored!r:.40}, the corpus' tokenizer has {given!r:.40}; "
                "expected the same tokenizer (tokenizer.model in the corpus' section takes the file's own)"
            )
