"""What the models of a configuration are made of, before anything is trained or allocated."""

import math
from pathlib import Path

import pandas as pd

from tokenbounds.files import canonical_json, read_json
from tokenbounds.models import new_model
from tokenbounds.sections import PUBLISHED, slice_of

COUNTS = ("trainable", "spanned", "dense")


def models_frame(config, vocab_size=None, results="results"):
    """Numbers of parameters of each model.

    Parameters
    ----------
    config : tokenbounds.config.Config
    vocab_size : int, optional
        V of models whose tokens are not made and whose tokenizer is neither trained here nor listed.
    results : path
        Folder of the runs.

    Returns
    -------
    DataFrame
        Columns ``model``, ``structure``, ``trainable`` (values that are trained and coded), ``spanned`` (values that a subspace moves: its
        D; otherwise as trainable), ``dense`` (parameters of the same architecture without structure, V embeddings once); missing where V
        is not known.
    """
    lines, counted = [], {}

    def count(hypothesis, where):
        """Trainable values; hundreds of models of a sweep share their dense architecture."""
        key = canonical_json(hypothesis)
        if key not in counted:
            counted[key] = _count(hypothesis, where)
        return counted[key]

    for name, model in config.models.items():
        if model.family in PUBLISHED:
            lines.append({"model": name, "structure": f"as published ({model.hub or model.folder})"})
            continue
        if model.family == "markov":
            lines.append({"model": name, "structure": f"markov, order {model.order}"})  # how many counts it has, its corpus decides
            continue
        size = corpus_vocab_size(config, model.corpus, results) or vocab_size
        if size is None:
            lines.append({"model": name, "structure": _words(model)})
            continue
        part = model.hypothesis()
        base = {"vocab_size": size, "eot_id": 0, **{key: value for key, value in part.items() if key not in ("structure", "subspace")}}
        spanned = base | {key: part[key] for key in ("structure",) if key in part}
        trainable = spanned | {key: part[key] for key in ("subspace",) if key in part}
        counts = [count(found, f"models.{name}") for found in (trainable, spanned, base)]
        lines.append({"model": name, "structure": _words(model), **dict(zip(COUNTS, counts, strict=True))})
    return pd.DataFrame(lines, columns=["model", "structure", *COUNTS]).astype(dict.fromkeys(COUNTS, "Int64"))


def _count(hypothesis, where):
    import torch

    with torch.device("meta"):
        model, _ = new_model(hypothesis, 0, where)
    return sum(math.prod(shape) for _, shape in model.layout())


def _words(model):
    if model.family != "gpt":
        return model.transformers.get("model_type", "")
    structure = slice_of(model.structure) if model.structure else {"kind": "dense"}
    shown = {"rank", "blocks", "out_factor", "in_factor"}
    options = [f"{key} {value}" for key, value in structure.items() if key in shown]
    subspace = [f"subspace {model.subspace.dimension}"] if model.subspace else []
    return ", ".join([structure["kind"], *options, *subspace])


def corpus_vocab_size(config, corpus, results="results"):
    """V of a corpus: of its tokens where they are made, or of a tokenizer that is to be trained or is listed; else None."""
    index = Path(results) / config.run / "tokens" / corpus / "train" / "index.json"
    if index.exists():
        return read_json(index)["vocab_size"]
    tokenizer = config.corpora[corpus].tokenizer
    if tokenizer.corpus:
        return corpus_vocab_size(config, tokenizer.corpus, results)
    if tokenizer.vocabulary:
        return len(tokenizer.vocabulary)
    return tokenizer.train.vocab_size if tokenizer.train else None
