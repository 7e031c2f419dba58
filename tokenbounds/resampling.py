"""What the bound is about: next tokens drawn anew in the contexts of the corpus, and how well models predict them (docs/meaning.md).

The bounded quantity (paper, Equation 2) is the expected loss of a model when the token after each context of the corpus is drawn again from
the process that made the corpus. That process is not known; as in the paper (4.3, B.4) another language model, the generator, stands for
it.
"""

import bisect
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tokenbounds.corpus import TokenStore, read_positions
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, check_sha256, provenance, read_json, sha256_file, write_json
from tokenbounds.hypothesis import context_rule, read_model
from tokenbounds.scoring import ContextRule, Item, batches, padded, score_items, token_items, with_start
from tokenbounds.streams import generator
from tokenbounds.tokenize import load_tokenizer

SCHEMA = pa.schema({"draw": pa.int64(), "position": pa.int64(), "tokens": pa.list_(pa.int32()), "log2_q": pa.float64()})

_LOGITS = 2**22  # most logits held at once
_VISIBLE = 2  # tokens of the corpus that are rewritten, per token that the model may see
_REPLACEMENT = "\ufffd"  # what bytes that are no whole character decode to


# ---------------------------------------------------------------- drawing


def resample(
    message_path, draws_path, store_folder, resampled_path, sidecar_path, *, name, sampling, draws, tokens, seed, batch_tokens, device
):
    """Draw a continuation of each drawn context from the generator, and write them.

    Parameters
    ----------
    message_path : path
        The coded generator.
    draws_path, store_folder : path
        Drawn positions and the token index: contexts are what comes before the positions, in their documents.
    resampled_path, sidecar_path : path
        Outputs: parquet (`SCHEMA`) and json.
    name : str
        The generator's name, in errors and for the random stream.
    sampling : str
        Name of the sampling scheme, which says how much context a prediction sees.
    draws : int
        How many contexts: the first so many draws.
    tokens : int
        Tokens per continuation (T); one that ends its document is shorter.
    seed : int
        The run's seed (stream "resample").
    batch_tokens, device
        As for `tokenbounds.records.score_part`.
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    store = TokenStore(store_folder)
    _check_vocabulary(message, store, message_path)
    positions = _positions(draws_path, store, draws)
    rule = shortened(context_rule(message, sampling, str(message_path)), tokens, str(message_path))
    inputs = [with_start(context, at_start, rule) for context, at_start in contexts(store, positions, rule.length)]
    uniforms = generator(seed, "resample", name, sampling).random((len(inputs), tokens))
    drawn, log2_q = continuations(model, inputs, uniforms, eot_id=store.eot_id, batch_tokens=batch_tokens, name=name)
    columns = {"draw": np.arange(len(drawn)), "position": positions, "tokens": drawn, "log2_q": log2_q}
    with atomic_path(resampled_path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
    config = {"sampling": sampling, "draws": draws, "tokens": tokens}
    inputs = [message_path, draws_path, Path(store_folder) / "index.json"]
    facts = {"generator": name, "device": str(target), "seed": seed, "sha256": sha256_file(resampled_path)}
    write_json(sidecar_path, provenance(config, inputs, **facts))


def _positions(draws_path, store, draws):
    positions = read_positions(draws_path, store)["position"].to_numpy()
    if len(positions) < draws:
        raise InputError(f"{draws_path}: {len(positions)} draws; expected at least {draws}")
    return positions[:draws]


def _check_vocabulary(message, store, where):
    vocab_size = message.config["hypothesis"]["vocab_size"]
    if vocab_size != store.vocab_size:
        raise InputError(f"{where}: the model predicts {vocab_size} tokens; expected the vocabulary of {store.folder}, {store.vocab_size}")


def shortened(rule, tokens, where="message"):
    """The context rule that leaves room for all but the last of `tokens` predicted tokens in the model's input."""
    if tokens > rule.length:
        raise InputError(f"{where}: a continuation of {tokens} tokens; expected at most the {rule.length} tokens that a prediction may see")
    return ContextRule(rule.length - tokens + 1, rule.start_token, rule.start_id)


def contexts(store, positions, length):
    """What comes before each position in its document, at most `length` tokens, and whether that reaches to the document's start.

    Yields
    ------
    tokens : ndarray of int64, shape (at most length,)
    at_start : bool
    """
    positions = np.asarray(positions, np.int64)
    for position, start in zip(positions.tolist(), store.document_start(positions).tolist(), strict=True):
        begin = max(start, position - length)
        yield store.tokens(begin, position).astype(np.int64), begin == start


def continuations(model, inputs, uniforms, *, eot_id, batch_tokens, name="generator"):
    """Draw tokens one after the other from a model's distribution.

    Parameters
    ----------
    model : module
        As for `tokenbounds.scoring.score_items`.
    inputs : list of ndarray of int64
        What the model sees before the first drawn token.
    uniforms : ndarray of float64, shape (n, T)
        Uniform random numbers in [0, 1): token t of draw i is the quantile ``uniforms[i, t]`` of its distribution, in the order of the ids.
    eot_id : int
        A continuation ends after this token.

    Returns
    -------
    tokens : list of list of int
        1 to T tokens each.
    log2_q : ndarray of float64, shape (n,)
        Log probability of the continuation under the model.
    """
    drawn, log2_q = [[] for _ in inputs], np.zeros(len(inputs))
    for step in range(uniforms.shape[1]):
        active = [i for i, tokens in enumerate(drawn) if eot_id not in tokens]
        grown = [np.concatenate([inputs[i], np.array(drawn[i], np.int64)]) for i in active]
        for rows, log_p in _next_log_probabilities(model, grown, batch_tokens, name):
            chosen = [active[row] for row in rows]
            tokens = quantiles(log_p, torch.from_numpy(uniforms[chosen, step]).to(log_p.device))
            found = log_p.gather(-1, tokens[:, None])[:, 0].cpu().numpy() / math.log(2)
            for i, token, value in zip(chosen, tokens.tolist(), found.tolist(), strict=True):
                drawn[i].append(token)
                log2_q[i] += value
    return drawn, log2_q


def quantiles(log_p, uniforms):
    """The token at which the cumulative distribution of each row first exceeds its uniform number.

    Parameters
    ----------
    log_p : Tensor of float64, shape (n, V)
    uniforms : Tensor of float64, shape (n,)

    Returns
    -------
    Tensor of int64, shape (n,)
    """
    cumulative = log_p.exp().cumsum(dim=-1)
    below = cumulative <= (uniforms * cumulative[:, -1])[:, None]
    return below.sum(dim=-1).clamp(max=log_p.shape[-1] - 1)


@torch.inference_mode()
def _next_log_probabilities(model, inputs, batch_tokens, name):
    """(numbers of inputs, float64 natural log-probabilities of the next token, (rows, V)), all inputs in some order."""
    device = next(model.parameters()).device
    for batch in batches([ids.size for ids in inputs], batch_tokens):
        lengths = [inputs[i].size for i in batch]
        hidden = model.hidden(torch.from_numpy(padded([inputs[i] for i in batch])).to(device))  # (B, T, width)
        hidden = hidden[torch.arange(len(batch)), torch.tensor(lengths) - 1]
        step = max(1, _LOGITS // model.head(hidden[:1]).shape[-1])
        for start in range(0, len(batch), step):
            log_p = torch.log_softmax(model.head(hidden[start : start + step]).double(), dim=-1)
            if not log_p.isfinite().all():
                raise InputError(f"{name}: a prediction is not finite; expected finite logits for every context")
            yield batch[start : start + step], log_p


# ---------------------------------------------------------------- scoring


def read_resampled(path):
    """Continuations that `resample` wrote.

    Returns
    -------
    dict
        ``position``: ndarray of int64, shape (n,); ``tokens``: list of list of int.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: not a readable parquet file ({' '.join(str(error).split())[:120]})") from None
    if table.schema.names != SCHEMA.names:
        raise InputError(f"{path}: columns {', '.join(table.schema.names)}; expected {', '.join(SCHEMA.names)}")
    check_sha256(path, read_json(Path(path).with_suffix(".json"))["sha256"])
    return {"position": table["position"].to_numpy(), "tokens": table["tokens"].to_pylist()}


def same_tokenizer_bits(model, store, resampled, rule, *, tokens, batch_tokens, name="model"):
    """Bits of each continuation under a model with the generator's tokenizer: -log2 q(tokens | context).

    Parameters
    ----------
    model, batch_tokens, name
        As for `tokenbounds.scoring.score_items`.
    store : TokenStore
        The corpus of the contexts.
    resampled : dict
        As `read_resampled` returns it.
    rule : ContextRule
        What a prediction of the model may see.
    tokens : int
        Most tokens per continuation (T).

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    rule = shortened(rule, tokens, name)
    found = zip(contexts(store, resampled["position"], rule.length), resampled["tokens"], resampled["position"], strict=True)
    items = [
        _item(with_start(context, at_start, rule), drawn, position, draw)
        for draw, ((context, at_start), drawn, position) in enumerate(found)
    ]
    return np.array([-float(log2_q.sum()) for log2_q, *_ in score_items(model, items, batch_tokens=batch_tokens, name=name, progress=True)])


def _item(ids, targets, position, draw):
    """One pass that predicts `targets`, one after the other, after `ids`."""
    targets = np.asarray(targets, np.int64)
    first, everywhere = ids.size - 1, np.full(targets.size, position)
    return Item(np.concatenate([ids, targets[:-1]]), first, targets, everywhere, np.full(targets.size, first, np.int32), 0, draw)


def rewritten(context, drawn, source, target):
    """A context and its continuation in the tokens of another tokenizer (docs/meaning.md).

    Parameters
    ----------
    context, drawn : sequence of int
        Tokens of `source`; the last of `drawn` may be its EOT.
    source, target : TextTokenizer

    Returns
    -------
    kept : ndarray of int64
        Tokens that the context has both alone and with the continuation after it.
    replaced : ndarray of int64
        The context's other tokens: alone, it would end with them.
    added : ndarray of int64
        What follows `kept` when the continuation is there.
    None
        In place of all, where the continuation adds no text of whole characters.
    """
    drawn = list(drawn)
    ended = drawn[-1] == source.eot_id
    before = source.decode(context).rstrip(_REPLACEMENT)  # a character that is not whole yet belongs to the continuation
    after = source.decode([*context, *(drawn[:-1] if ended else drawn)])
    if not after.startswith(before) or after.endswith(_REPLACEMENT) or (after == before and not ended):
        return None
    alone, together = (ids.astype(np.int64) for ids in target.encode_batch([before, after]))
    shortest = min(alone.size, together.size)
    different = np.flatnonzero(alone[:shortest] != together[:shortest])
    common = int(different[0]) if different.size else shortest
    added = np.concatenate([together[common:], [target.eot_id] if ended else []]).astype(np.int64)
    return (together[:common], alone[common:], added) if added.size else None


class Spellings:
    """Which tokens can come next when the text must go on in a given way.

    Parameters
    ----------
    pieces : list of bytes
        What each token spells; empty for those that spell nothing.
    """

    def __init__(self, pieces):
        self.pieces = pieces
        self._ids = sorted((token for token, piece in enumerate(pieces) if piece), key=pieces.__getitem__)
        self._keys = [pieces[token] for token in self._ids]

    def text(self, tokens):
        """What tokens spell together."""
        return b"".join(self.pieces[token] for token in tokens)

    def compatible(self, text):
        """Tokens that begin with `text` (bytes, not empty), and tokens that `text` begins with."""
        first = bisect.bisect_left(self._keys, text)
        stop = bisect.bisect_right(self._keys, text, lo=first, key=lambda piece: piece[: len(text)])
        found = self._ids[first:stop]
        for length in range(1, len(text)):
            first, stop = (side(self._keys, text[:length]) for side in (bisect.bisect_left, bisect.bisect_right))
            found += self._ids[first:stop]
        return found


def rewritten_bits(model, store, resampled, rule, source, target, *, batch_tokens, name="model"):
    """Bits of each continuation's text under a model with another tokenizer than the generator's.

    With `kept`, `replaced` and `added` of `rewritten`: -log2 q(added | kept) + log2 q(E | kept), where E holds the next tokens that do not
    contradict the text of `replaced` (all tokens, if nothing was replaced). See docs/meaning.md.

    Parameters
    ----------
    model, store, resampled, rule, batch_tokens, name
        As for `same_tokenizer_bits`.
    source, target : TextTokenizer
        Those of the corpus and of the model.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN where the continuation adds no text of whole characters.
    """
    spellings = Spellings(target.pieces())
    bits = np.full(len(resampled["tokens"]), np.nan)
    items, healed, allowed = [], [], []
    found = zip(contexts(store, resampled["position"], _VISIBLE * rule.length), resampled["tokens"], resampled["position"], strict=True)
    for draw, ((context, at_start), drawn, position) in enumerate(found):
        parts = rewritten(context, drawn, source, target)
        if parts is None:
            continue
        kept, replaced, added = parts
        room = shortened(rule, added.size, name)
        ids = with_start(kept[-room.length :], at_start and kept.size <= room.length, room)
        items.append(_item(ids, added, position, draw))
        text = spellings.text(replaced)
        if text and added[0] in (compatible := spellings.compatible(text)):
            healed.append(len(items) - 1)
            allowed.append(compatible)
    scored = score_items(model, items, batch_tokens=batch_tokens, name=name, progress=True)
    for item, (log2_q, *_) in zip(items, scored, strict=True):
        bits[item.draw] = -float(log2_q.sum())
    inputs = [items[i].ids[: items[i].first + 1] for i in healed]
    for rows, log_p in _next_log_probabilities(model, inputs, batch_tokens, name):
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
    sampling,
    draws,
    tokens,
    batch_tokens,
    device,
):
    """How well a coded model predicts the resampled continuations, and drawn tokens of other corpora.

    Parameters
    ----------
    message_path, tokenizer_folder : path
        The model and its tokenizer.
    resampled_path, store_folder, source_folder : path
        Continuations, the token index of their contexts, and its tokenizer.
    downstream : list of (str, path, path, path)
        Of each other corpus its name, drawn positions, token index and tokenizer. It must be tokenized as the model's corpus is.
    name, sampling, draws, tokens, batch_tokens, device
        As for `resample`.

    Returns
    -------
    dict
        ``parameters`` (trainable ones: those of the message, or of published files); ``objective_bits``, its
        ``objective_standard_error``, ``scored`` and ``left_out`` (continuations); and under ``downstream`` per corpus ``perplexity`` and
        ``accuracy`` (percent of drawn tokens that are the most probable one), with standard errors.
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    rule = context_rule(message, sampling, str(message_path))
    store, resampled = TokenStore(store_folder), read_resampled(resampled_path)
    common = {"batch_tokens": batch_tokens, "name": name}
    sha256 = read_json(Path(tokenizer_folder) / "info.json")["sha256"]
    if sha256 == read_json(Path(source_folder) / "info.json")["sha256"]:
        _check_vocabulary(message, store, message_path)
        bits = same_tokenizer_bits(model, store, resampled, rule, tokens=tokens, **common)
    else:
        tokenizers = load_tokenizer(source_folder), load_tokenizer(tokenizer_folder)
        bits = rewritten_bits(model, store, resampled, rule, *tokenizers, **common)
    scored = bits[~np.isnan(bits)]
    if scored.size < 2:
        raise InputError(f"{resampled_path}: {scored.size} continuations of whole characters; expected at least 2")
    mean, error = mean_and_error(scored)
    performance = {}
    for corpus, draws_path, folder, tokenizer in downstream:
        other = TokenStore(folder)
        _check_vocabulary(message, other, message_path)
        if (found := read_json(Path(tokenizer) / "info.json")["sha256"]) != sha256:
            raise InputError(f"{tokenizer}: another tokenizer (sha256 {found[:12]}...) than that of {name} ({sha256[:12]}...)")
        items = list(token_items(other, _positions(draws_path, other, draws), rule))
        performance[corpus] = performance_of(score_items(model, items, progress=True, **common))
    return {
        "parameters": sum(tensor.size for tensor in message.tensors.values()) or sum(part.numel() for part in model.parameters()),
        "objective_bits": mean,
        "objective_standard_error": error,
        "scored": int(scored.size),
        "left_out": int(bits.size - scored.size),
        "downstream": performance,
    }


def write_scores(path, models, resampled_path, store_folder, source_folder, downstream, **options):
    """Write `evaluate` of each model to one json file.

    Parameters
    ----------
    path : path
        Output: ``models``, in order, each with its ``model`` and ``codec``.
    models : list of (str, path, path)
        Of each model its name (``model.codec``), message and tokenizer.
    resampled_path, store_folder, source_folder, downstream, **options
        As for `evaluate`.
    """
    found = []
    for name, message, tokenizer in models:
        model, codec = name.split(".")
        scores = evaluate(message, tokenizer, resampled_path, store_folder, source_folder, downstream, name=name, **options)
        found.append({"model": model, "codec": codec, **scores})
    inputs = [message for _, message, _ in models] + [resampled_path, *(draws for _, draws, _, _ in downstream)]
    config = {key: options[key] for key in ("sampling", "draws", "tokens")}
    write_json(path, {"models": found, "provenance": provenance(config, inputs)})


def performance_of(scored):
    """Perplexity and accuracy in percent, with standard errors, of scored single tokens (as `score_items` returns them)."""
    log2_q, rank = (np.concatenate([found[column] for found in scored]) for column in (0, 1))
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
    """Mean and its standard error, of at least two independent values."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
