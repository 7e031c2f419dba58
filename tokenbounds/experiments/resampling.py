"""Resampling of next tokens in the contexts of a corpus (docs/downstream.md).

The bounded quantity (paper, Equation 2) is the expected loss of a model when the token after each context of
the corpus is drawn again from the process that made the corpus. That process is not known; as in the paper
(4.3, B.4), another language model takes its place, the generator.

::

    document       d0  d1  d2  d3  d4  d5  EOT
    position                   3                 drawn by a random stream of its own
    context        d0  d1  d2                    the tokens before it, as many as the generator may see
    continuation               t0  t1            T tokens of the generator, or fewer if it draws EOT

`tokenbounds.experiments.downstream` scores other models on the continuations.
"""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.contexts import ContextRule, with_start
from tokenbounds.corpus.sampling import positions_of_stream
from tokenbounds.corpus.store import TokenStore
from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, check_sha256, read_json, sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.randomness import generator
from tokenbounds.scoring.shapes import scored_logits

SCHEMA = pa.schema(
    {"draw": pa.int64(), "position": pa.int64(), "tokens": pa.list_(pa.int32()), "log2_q": pa.float64()}
)


def resample(
    message_path,
    store_folder,
    resampled_path,
    sidecar_path,
    *,
    name,
    corpus,
    scheme,
    draws,
    tokens,
    seed,
    device,
):
    """Draw contexts and a continuation of each from the generator, and write them to a file.

    Parameters
    ----------
    message_path : path
        Message of the generator.
    store_folder : path
        The token index: a context holds the tokens before a drawn position, in its document.
    resampled_path : path
        Output, a parquet file with a row per draw:

        ============  ===========  =============================================================
        ``draw``      int64        number of the draw
        ``position``  int64        global position of the first token that is drawn anew
        ``tokens``    list(int32)  the continuation
        ``log2_q``    float64      log2 of its probability under the generator
        ============  ===========  =============================================================
    sidecar_path : path
        Output, json: provenance and sha256 of the parquet file.
    name : str
        Name of the generator, for errors and the random stream.
    corpus : str
        Name of the corpus, for the random streams.
    scheme : dict
        How much context a prediction sees: an entry of the message (`tokenbounds.codecs.contexts`).
    draws : int
        Number of contexts.
    tokens : int
        Tokens per continuation (T); one that ends its document is shorter.
    seed : int
        Seed of the run (streams "contexts", corpus and "resample", name, corpus).
    device : str
        torch device, or "auto".

    Raises
    ------
    InputError
        The generator has another vocabulary than the corpus; a continuation is longer than the generator's
        context; a prediction is not finite.
    """
    target = choose_device(device)
    message, model = read_model(message_path, target)
    store = TokenStore(store_folder)
    check_vocabulary(message, store, message_path)
    positions = context_positions(store, draws, seed, corpus)
    rule = shortened(context_rule(message, scheme, str(message_path)), tokens, str(message_path))
    inputs = [
        with_start(context, at_start, rule) for context, at_start in contexts(store, positions, rule.length)
    ]
    uniforms = generator(seed, "resample", name, corpus).random((len(inputs), tokens))
    arithmetic = message.config["contexts"]["arithmetic"]
    drawn, log2_q = continuations(
        model, inputs, uniforms, eot_id=store.eot_id, arithmetic=arithmetic, name=name
    )
    columns = {"draw": np.arange(len(drawn)), "position": positions, "tokens": drawn, "log2_q": log2_q}
    with atomic_path(resampled_path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary, compression="zstd")
    config = {"scheme": scheme, "draws": draws, "tokens": tokens}
    inputs = [message_path, Path(store_folder) / "index.json"]
    facts = {"generator": name, "device": str(target), "seed": seed, "sha256": sha256_file(resampled_path)}
    write_json(sidecar_path, provenance(config, inputs, **facts))


def context_positions(store, draws, seed, corpus):
    """Draw the positions of contexts (ndarray of int64) by the stream ``("contexts", corpus)``: the same for
    all models."""
    return positions_of_stream(store, draws, seed, "contexts", corpus)


def check_vocabulary(message, store, where):
    """Raise an `InputError` that begins with `where` if a model has another vocabulary than a corpus."""
    vocab_size = message.config["hypothesis"]["vocab_size"]
    if vocab_size != store.vocab_size:
        raise InputError(
            f"{where}: the model predicts {vocab_size} tokens; "
            f"expected the vocabulary of {store.folder}, {store.vocab_size}"
        )


def shortened(rule, tokens, where="message"):
    """Shorten a context rule, so that context and continuation fit into the model's input.

    ::

        input       c c c c c c t0 t1        rule.length = 8 tokens predict t0, t1, t2
        context     c c c c c c              6 = 8 - tokens + 1: t2 is predicted, but not an input

    Parameters
    ----------
    rule : ContextRule
        Rule of the model.
    tokens : int
        Tokens per continuation.
    where : str
        Name of the model, for errors.

    Returns
    -------
    ContextRule

    Raises
    ------
    InputError
        The continuation is longer than the input.
    """
    if tokens > rule.length:
        raise InputError(
            f"{where}: a continuation of {tokens} tokens; "
            f"expected at most the {rule.length} tokens that a prediction may see"
        )
    return ContextRule(rule.length - tokens + 1, rule.start_token, rule.start_id)


def contexts(store, positions, length):
    """Read the context of each position: the last tokens before it in its document.

    Parameters
    ----------
    store : tokenbounds.corpus.store.TokenStore
    positions : array_like of int, shape (n,)
        Global positions.
    length : int
        Most tokens per context.

    Yields
    ------
    tokens : ndarray of int64, shape (at most length,)
    at_start : bool
        Whether they reach back to the document's start.
    """
    positions = np.asarray(positions, np.int64)
    for position, start in zip(positions.tolist(), store.document_start(positions).tolist(), strict=True):
        begin = max(start, position - length)
        yield store.tokens(begin, position).astype(np.int64), begin == start


def continuations(model, inputs, uniforms, *, eot_id, arithmetic, name="generator"):
    """Draw tokens one after the other from a model's distribution.

    Parameters
    ----------
    model : module
        As for `tokenbounds.scoring.score.score_items`.
    inputs : list of ndarray of int64
        Contexts, with their start tokens: n inputs of the model before the first drawn token.
    uniforms : ndarray of float64, shape (n, T)
        Uniform random numbers in [0, 1): token t of draw i is the quantile ``uniforms[i, t]`` of its
        distribution, in the order of the ids.
    eot_id : int
        Token that ends a continuation.
    arithmetic : dict
        As for `tokenbounds.scoring.score.score_items`.
    name : str
        Name of the model, for errors.

    Returns
    -------
    tokens : list of list of int
        1 to T tokens each.
    log2_q : ndarray of float64, shape (n,)
        Log2 probability of each continuation under the model.

    Raises
    ------
    InputError
        A prediction is not finite.
    """
    drawn, log2_q = [[] for _ in inputs], np.zeros(len(inputs))
    for step in range(uniforms.shape[1]):
        active = [i for i, tokens in enumerate(drawn) if eot_id not in tokens]
        grown = [np.concatenate([inputs[i], np.array(drawn[i], np.int64)]) for i in active]
        for rows, log_p in next_log_probabilities(model, grown, arithmetic, name):
            chosen = [active[row] for row in rows]
            tokens = quantiles(log_p, torch.from_numpy(uniforms[chosen, step]).to(log_p.device))
            values = log_p.gather(-1, tokens[:, None])[:, 0].cpu().numpy() / math.log(2)
            for i, token, value in zip(chosen, tokens.tolist(), values.tolist(), strict=True):
                drawn[i].append(token)
                log2_q[i] += value
    return drawn, log2_q


def quantiles(log_p, uniforms):
    """Find the token at which the cumulative distribution of each row first exceeds its uniform number.

    Parameters
    ----------
    log_p : Tensor of float64, shape (n, V)
        Natural log-probabilities.
    uniforms : Tensor of float64, shape (n,)
        Numbers in [0, 1).

    Returns
    -------
    Tensor of int64, shape (n,)
    """
    cumulative = log_p.exp().cumsum(dim=-1)
    below = cumulative <= (uniforms * cumulative[:, -1])[:, None]
    return below.sum(dim=-1).clamp(max=log_p.shape[-1] - 1)


@torch.inference_mode()
def next_log_probabilities(model, inputs, arithmetic, name):
    """Predict the token after each input.

    Parameters
    ----------
    model, arithmetic, name
        As for `continuations`.
    inputs : list of ndarray of int64

    Yields
    ------
    rows : list of int
        Indices into `inputs`; in all each occurs once, in some order.
    log_p : Tensor of float64, shape (rows, V)
        Natural log-probabilities of their next tokens.

    Raises
    ------
    InputError
        A prediction is not finite.
    """
    lengths = [ids.size for ids in inputs]
    last = [np.array([length - 1]) for length in lengths]
    for rows, _, logits in scored_logits(model, inputs, lengths, last, arithmetic=arithmetic, name=name):
        log_p = torch.log_softmax(logits[: len(rows)].double(), dim=-1)
        if not log_p.isfinite().all():
            raise InputError(f"{name}: a prediction is not finite; expected finite logits for every context")
        yield rows.tolist(), log_p


def read_resampled(path):
    """Read continuations that `resample` wrote.

    Parameters
    ----------
    path : path
        The parquet file; its sidecar lies beside it.

    Returns
    -------
    dict
        ``position``: ndarray of int64, shape (n,); ``tokens``: list of list of int.

    Raises
    ------
    InputError
        The file is absent, torn, or changed since it was written.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path}: not a readable parquet file ({' '.join(str(error).split())[:120]})"
        ) from None
    if table.schema.names != SCHEMA.names:
        raise InputError(
            f"{path}: columns {', '.join(table.schema.names)}; expected {', '.join(SCHEMA.names)}"
        )
    check_sha256(path, read_json(Path(path).with_suffix(".json"))["sha256"])
    return {"position": table["position"].to_numpy(), "tokens": table["tokens"].to_pylist()}
