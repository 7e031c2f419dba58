"""GGUF files, the format of llama.cpp: what one says of its model and tokenizer, and whether it is whole.

Files come from strangers: the reader of package ``gguf`` maps them and checks every length, and whatever it
raises is one line here. Nothing of a file is executed; its chat template is not read.
"""

import contextlib
import dataclasses
import json
from pathlib import Path

from tokenbounds.errors import InputError

_TOKENIZER = ("tokens", "bos_token_id", "eos_token_id")


@dataclasses.dataclass(frozen=True)
class GGUFFacts:
    """Facts that a GGUF file states.

    Attributes
    ----------
    architecture : str
        Name of the architecture in llama.cpp.
    values : int
        Number of values in all tensors.
    tokens : list of str
        Spelling of each token, by id, as the file has it.
    bos_id, eos_id : int or None
        Tokens for the beginning and the end of a text.
    """

    architecture: str
    values: int
    tokens: list[str]
    bos_id: int | None
    eos_id: int | None


def read_facts(path):
    """Read what a GGUF file states, after checking that all its tensors lie within it.

    Parameters
    ----------
    path : path

    Returns
    -------
    GGUFFacts

    Raises
    ------
    InputError
        No such file, no GGUF file, one that is cut off or malformed, or one without architecture or tokens;
        tensors that share bytes, so that a small file would be a model of any size.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a GGUF file")
    with readable(path):
        from gguf import GGUFReader

        reader = GGUFReader(path)
        facts = {
            key: field.contents() if (field := reader.get_field(key)) is not None else None
            for key in ("general.architecture", *(f"tokenizer.ggml.{key}" for key in _TOKENIZER))
        }
        values, stored = (
            sum(int(getattr(tensor, key)) for tensor in reader.tensors) for key in ("n_elements", "n_bytes")
        )
        del reader  # and with it the map of the file
    if stored > (size := path.stat().st_size):
        raise InputError(f"{path}: its tensors have {stored} bytes, the file has {size}; expected no overlap")
    architecture, tokens = facts["general.architecture"], facts["tokenizer.ggml.tokens"]
    if not isinstance(architecture, str) or not isinstance(tokens, list) or not tokens:
        missing = "tokenizer.ggml.tokens" if isinstance(architecture, str) else "general.architecture"
        raise InputError(f"{path}: no {missing} in it; expected a GGUF file of a language model")
    ids = []
    for key in ("bos_token_id", "eos_token_id"):
        token = facts[f"tokenizer.ggml.{key}"]
        if token is not None and not (isinstance(token, int) and 0 <= token < len(tokens)):
            raise InputError(f"{path}: {key} is {token!r:.40}; expected a token below {len(tokens)}")
        ids.append(token)
    return GGUFFacts(architecture, values, tokens, *ids)


def read_tokenizer(path, facts):
    """Convert the tokenizer of a GGUF file to one of the tokenizers library.

    It puts a token before a text (BOS) exactly if the file says that its model expects one.

    Parameters
    ----------
    path : path
    facts : GGUFFacts
        Those of the file.

    Returns
    -------
    tokenizers.Tokenizer

    Raises
    ------
    InputError
        A kind of tokenizer that the transformers library does not convert.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    path = Path(path)
    with readable(path):
        found = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        )
        content = json.loads(found.backend_tokenizer.to_str())
        # the library adds special tokens of its own where the file has none: they are no tokens of the model
        known = len(facts.tokens)
        content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < known]
        return Tokenizer.from_str(json.dumps(content))


@contextlib.contextmanager
def readable(path):
    """Raise an `InputError` that names the file for whatever a library raises while it reads it."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # malformed bytes raise many kinds of errors in the libraries
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.160}"
        raise InputError(f"{path}: cannot be read ({reason}); expected a whole GGUF file") from None
