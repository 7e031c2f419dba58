"""Numbers of parameters of the models of a configuration, before anything is trained or allocated."""

import math
from pathlib import Path

import pandas as pd

from tokenbounds.config.schema import slice_of
from tokenbounds.io.files import canonical_json, read_json
from tokenbounds.models.registry import new_model

COUNTS = ("trainable", "spanned", "dense")


def models_frame(config, vocab_size=None):
    """Count the parameters of each model.

    Parameters
    ----------
    config : tokenbounds.config.run.Config
    vocab_size : int, optional
        V of models whose tokens are not made and whose tokenizer is neither trained here nor listed.

    Returns
    -------
    DataFrame
        Columns ``model``, ``structure``, ``trainable`` (values that are trained and coded), ``spanned``
        (values that a subspace moves: its D; otherwise as trainable), ``dense`` (parameters of the same
        architecture without structure, V embeddings once); missing where V is not known, and of models that
        are not trained here.
    """
    lines, counted = [], {}

    def count(hypothesis, where):
        """Trainable values; hundreds of models of a sweep share their dense architecture."""
        key = canonical_json(hypothesis)
        if key not in counted:
            counted[key] = _count(hypothesis, where)
        return counted[key]

    for name, model in config.models.items():
        line = {"model": name, "structure": _words(model)}
        if model.trained and (size := corpus_vocab_size(config, model.corpus) or vocab_size) is not None:
            counts = [count(part, f"models.{name}") for part in _reductions(model.hypothesis(), size)]
            line |= dict(zip(COUNTS, counts, strict=True))
        lines.append(line)
    return pd.DataFrame(lines, columns=["model", "structure", *COUNTS]).astype(dict.fromkeys(COUNTS, "Int64"))


def _reductions(hypothesis, vocab_size):
    """A model's hypothesis, the same without its subspace, and without its structure too."""
    whole = {"vocab_size": vocab_size, "eot_id": 0, **hypothesis}
    spanned = {key: value for key, value in whole.items() if key != "subspace"}
    return whole, spanned, {key: value for key, value in spanned.items() if key != "structure"}


def _count(hypothesis, where):
    import torch

    with torch.device("meta"):
        model, _ = new_model(hypothesis, 0, where)
    return sum(math.prod(shape) for _, shape in model.layout())


def _words(model):
    """A model's structure in words."""
    if model.published:
        return f"as published ({model.hub or model.folder})"
    if hasattr(model, "order"):  # its number of counts depends on its corpus
        return f"{model.family}, order {model.order}"
    if not hasattr(model, "structure"):
        return getattr(model, "transformers", {}).get("model_type", model.family)
    structure = slice_of(model.structure) if model.structure else {"kind": "dense"}
    shown = {"rank", "blocks", "out_factor", "in_factor"}
    options = [f"{key} {value}" for key, value in structure.items() if key in shown]
    subspace = [f"subspace {model.subspace.dimension}"] if model.subspace else []
    return ", ".join([structure["kind"], *options, *subspace])


def corpus_vocab_size(config, corpus):
    """Return V of a corpus: of its tokens where they are made, or of a tokenizer that is to be trained or is
    listed; else None."""
    index = Path(config.results) / "tokens" / corpus / "train" / "index.json"
    if index.exists():
        return read_json(index)["vocab_size"]
    tokenizer = config.corpora[corpus].tokenizer
    if tokenizer.corpus:
        return corpus_vocab_size(config, tokenizer.corpus)
    if tokenizer.vocabulary:
        return len(tokenizer.vocabulary)
    return tokenizer.train.vocab_size if tokenizer.train else None
