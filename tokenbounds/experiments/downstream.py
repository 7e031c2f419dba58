"""Scores of models on resampled tokens, and on drawn tokens of other corpora (docs/downstream.md).

The mean bits of the continuations of `tokenbounds.experiments.resampling` under a model estimate the quantity
that the bound limits. They are compared with perplexity and accuracy on drawn tokens of downstream corpora.

========================  ==========================================================================
tokenizer of the model    bits of a continuation
========================  ==========================================================================
that of the corpus        `same_tokenizer_bits`: -log2 of the probability of its tokens
another                   `rewritten_bits`: an upper bound of -log2 of the probability of its text
========================  ==========================================================================
"""

import math
from pathlib import Path

import numpy as np
import torch

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.contexts import Item, token_items, with_start
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.experiments.resampling import (
    check_vocabulary,
    context_positions,
    contexts,
    next_log_probabilities,
    read_resampled,
    shortened,
)
from tokenbounds.experiments.rewriting import Spellings, rewritten
from tokenbounds.io.files import read_json, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.scoring.score import score_items

_VISIBLE = 2  # tokens of the corpus that are rewritten per token that the model may see


def same_tokenizer_bits(model, store, resampled, rule, *, tokens, arithmetic, name="model"):
    """Score each continuation under a model with the generator's tokenizer: -log2 q(tokens | context).

    Parameters
    ----------
    model, arithmetic, name
        As for `tokenbounds.scoring.score.score_items`.
    store : TokenStore
        The corpus of the contexts.
    resampled : dict
        As `read_resampled` returns it.
    rule : ContextRule
        Context that a prediction of the model sees.
    tokens : int
        Most tokens per continuation (T).

    Returns
    -------
    ndarray of float64, shape (n,)
        Bits.

    Raises
    ------
    InputError
        A continuation is longer than the model's context, or a prediction is not finite.
    """
    rule = shortened(rule, tokens, name)
    places, positions = contexts(store, resampled["position"], rule.length), resampled["position"]
    items = [
        _item(with_start(context, at_start, rule), drawn, position, draw, tokens)
        for draw, ((context, at_start), drawn, position) in enumerate(
            zip(places, resampled["tokens"], positions, strict=True)
        )
    ]
    scored = score_items(model, items, arithmetic=arithmetic, name=name, progress=True)
    return np.array([-float(log2_q.sum()) for log2_q, *_ in scored])


def _item(ids, targets, position, draw, tokens):
    """Build the pass that predicts `targets`, at most `tokens` of them, one after the other, after `ids`.

    ::

        ids           c0 c1 c2          targets    t0 t1 t2
        input         c0 c1 c2 t0 t1
        predicts            t0 t1 t2    first = 2
    """
    targets = np.asarray(targets, np.int64)
    first, everywhere = ids.size - 1, np.full(targets.size, position)
    return Item(
        np.concatenate([ids, targets[:-1]]),
        first,
        targets,
        everywhere,
        np.full(targets.size, first, np.int32),
        0,
        draw,
        ids.size + tokens - 1,
    )


def rewritten_bits(model, store, resampled, rule, source, target, *, arithmetic, name="model"):
    """Score each continuation's text under a model with another tokenizer than the generator's.

    With `kept`, `replaced` and `added` of `rewritten`, the bits are

        -log2 q(added | kept) + log2 q(E | kept),

    where E holds the next tokens that do not contradict the text of `replaced` (all tokens, if nothing was
    replaced). See docs/downstream.md.

    Parameters
    ----------
    model, store, resampled, rule, arithmetic, name
        As for `same_tokenizer_bits`.
    source, target : TextTokenizer
        Tokenizers of the corpus and of the model.

    Returns
    -------
    ndarray of float64, shape (n,)
        Bits; NaN if the continuation adds no text of whole characters.

    Raises
    ------
    InputError
        A continuation is longer than the model's context, or a prediction is not finite.
    """
    spellings = Spellings(target.pieces())
    bits = np.full(len(resampled["tokens"]), np.nan)
    items, healed, allowed = [], [], []
    places, positions = contexts(store, resampled["position"], _VISIBLE * rule.length), resampled["position"]
    draws = enumerate(zip(places, resampled["tokens"], positions, strict=True))
    for draw, ((context, at_start), drawn, position) in draws:
        split = rewritten(context, drawn, source, target)
        if split is None:
            continue
        kept, replaced, added = split
        room = shortened(rule, added.size, name)
        ids = with_start(kept[-room.length :], at_start and kept.size <= room.length, room)
        items.append(_item(ids, added, position, draw, added.size))
        text = spellings.text(replaced)
        if text and added[0] in (compatible := spellings.compatible(text)):
            healed.append(len(items) - 1)
            allowed.append(compatible)
    scored = score_items(model, items, arithmetic=arithmetic, name=name, progress=True)
    for item, (log2_q, *_) in zip(items, scored, strict=True):
        bits[item.draw] = -float(log2_q.sum())
    inputs = [items[i].ids[: items[i].first + 1] for i in healed]
    for rows, log_p in next_log_probabilities(model, inputs, arithmetic, name):
        for row, values in zip(rows, log_p, strict=True):
            bits[items[healed[row]].draw] += float(torch.logsumexp(values[allowed[row]], dim=0)) / math.log(2)
    return bits


def evaluate(
    message_path,
    tokenizer_folder,
    resampled_path,
    store_folder,
    source_folder,
    downstream,
    *,
    name,
    scheme,
    draws,
    tokens,
    seed,
    device,
):
    """Score a coded model on the resampled continuations, and on drawn tokens of other corpora.

    Parameters
    ----------
    message_path, tokenizer_folder : path
        The model and its tokenizer.
    resampled_path, store_folder, source_folder : path
        Continuations, the token index of their contexts, and its tokenizer.
    downstream : list of (str, path, path)
        Name, token index and tokenizer of each other corpus. Its tokenizer must be that of the model's
        corpus.
    name, scheme, draws, tokens, seed, device
        As for `tokenbounds.experiments.resampling.resample`, of the model.

    Returns
    -------
    dict

        ============================  ======================================================
        ``parameters``                number of trainable parameters: those of the message,
                                      or of published files
        ``objective_bits``            mean bits per continuation
        ``objective_standard_error``  its standard error
        ``scored``, ``left_out``      numbers of continuations
        ``downstream``                for each corpus `performance_of` its drawn tokens
        ============================  ======================================================

    Raises
    ------
    InputError
        A vocabulary or tokenizer is not that of the model; there are fewer than two continuations of whole
        characters; or as for `same_tokenizer_bits`.
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    rule = context_rule(message, scheme, str(message_path))
    store, resampled = TokenStore(store_folder), read_resampled(resampled_path)
    common = {"arithmetic": message.config["contexts"]["arithmetic"], "name": name}
    sha256 = read_json(Path(tokenizer_folder) / "info.json")["sha256"]
    if sha256 == read_json(Path(source_folder) / "info.json")["sha256"]:
        check_vocabulary(message, store, message_path)
        bits = same_tokenizer_bits(model, store, resampled, rule, tokens=tokens, **common)
    else:
        tokenizers = load_tokenizer(source_folder), load_tokenizer(tokenizer_folder)
        bits = rewritten_bits(model, store, resampled, rule, *tokenizers, **common)
    scored = bits[~np.isnan(bits)]
    if scored.size < 2:
        raise InputError(
            f"{resampled_path}: {scored.size} continuations of whole characters; expected at least 2"
        )
    mean, error = mean_and_error(scored)
    performance = {}
    for corpus, folder, tokenizer in downstream:
        other = TokenStore(folder)
        check_vocabulary(message, other, message_path)
        if (other_sha256 := read_json(Path(tokenizer) / "info.json")["sha256"]) != sha256:
            raise InputError(
                f"{tokenizer}: another tokenizer (sha256 {other_sha256[:12]}...) "
                f"than that of {name} ({sha256[:12]}...)"
            )
        items = list(token_items(other, context_positions(other, draws, seed, corpus), rule))
        performance[corpus] = performance_of(score_items(model, items, progress=True, **common))
    return {
        "parameters": sum(tensor.size for tensor in message.tensors.values())
        or sum(parameter.numel() for parameter in model.parameters()),
        "objective_bits": mean,
        "objective_standard_error": error,
        "scored": int(scored.size),
        "left_out": int(bits.size - scored.size),
        "downstream": performance,
    }


def write_scores(path, models, resampled_path, store_folder, source_folder, downstream, **options):
    """Evaluate each model, and write all results to one json file.

    Parameters
    ----------
    path : path
        Output: ``models``, a list of the results of `evaluate`, each with its ``model`` and ``codec``; and
        ``provenance``.
    models : list of (str, path, path)
        Name (``model.codec``), message and tokenizer of each model.
    resampled_path, store_folder, source_folder, downstream, **options
        As for `evaluate`.
    """
    evaluated = []
    for name, message, tokenizer in models:
        model, codec = name.split(".")
        scores = evaluate(
            message, tokenizer, resampled_path, store_folder, source_folder, downstream, name=name, **options
        )
        evaluated.append({"model": model, "codec": codec, **scores})
    inputs = [*(message for _, message, _ in models), resampled_path]
    inputs += [Path(folder) / "index.json" for _, folder, _ in downstream]
    config = {key: options[key] for key in ("scheme", "draws", "tokens", "seed")}
    write_json(path, {"models": evaluated, "provenance": provenance(config, inputs)})


def performance_of(scored):
    """Compute perplexity and accuracy of scored single tokens, with standard errors.

    Parameters
    ----------
    scored : list of tuple
        As `tokenbounds.scoring.score.score_items` returns them.

    Returns
    -------
    dict
        ``tokens`` (their number), ``perplexity``, ``perplexity_standard_error``, ``accuracy`` (percent of
        tokens that are the most probable one), ``accuracy_standard_error``.
    """
    log2_q, rank = (np.concatenate([item[column] for item in scored]) for column in (0, 1))
    mean, error = mean_and_error(-log2_q)
    accuracy, accuracy_error = mean_and_error(100.0 * (rank == 0))
    return {
        "tokens": int(log2_q.size),
        "perplexity": 2**mean,
        "perplexity_standard_error": math.log(2) * error * 2**mean,  # delta method
        "accuracy": accuracy,
        "accuracy_standard_error": accuracy_error,
    }


def mean_and_error(values):
    """Compute the mean of at least two independent values, and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
