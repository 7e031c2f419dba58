"""Text that decoded hypotheses generate (paper, 6.2 and Table 9).

Text is drawn from the model's own predictions q, each with the context that the hypothesis allows. The
smoothing that a bound includes (a constant α, or that of a head) is not applied: it would occasionally put a
random token into the text.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.contexts import with_start
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.io.files import sha256_file
from tokenbounds.randomness import generator


@dataclasses.dataclass(frozen=True)
class Sample:
    """A generated continuation.

    Attributes
    ----------
    ids : ndarray of int64, shape (T,)
        New tokens, without the prompt and without EOT.
    ended : bool
        Whether the model ended the document (predicted EOT); otherwise it was cut off.
    """

    ids: np.ndarray
    ended: bool


def distribution(logits, temperature=1.0, top_k=None):
    """Compute the probabilities with which the next token is drawn.

    Parameters
    ----------
    logits : ndarray of float64, shape (V,)
        Finite.
    temperature : float
        At least 0; the logits are divided by it. 0 is the limit: the most probable token, or the first if
        there are several.
    top_k : int, optional
        Number k of most probable tokens that are kept, with all tokens that tie with the last of them.

    Returns
    -------
    ndarray of float64, shape (V,)
    """
    shifted = logits - logits.max()
    if temperature == 0:
        return (np.arange(shifted.size) == shifted.argmax()).astype(np.float64)
    kept = shifted >= (np.partition(shifted, -top_k)[-top_k] if top_k and top_k < shifted.size else -np.inf)
    with np.errstate(over="ignore"):  # a small temperature makes improbable logits -inf
        weights = np.where(kept, np.exp(shifted / temperature), 0.0)
    return weights / weights.sum()


@torch.inference_mode()
def generate(model, rule, rng, *, tokens, prompt=(), temperature=1.0, top_k=None, name="model"):
    """Continue a document, token by token, until the model ends it.

    Each prediction sees at most the last ``rule.length`` tokens of the document, and the start token where
    `rule` puts it, as in the scoring of single tokens (docs/theory.md, section 1). With ``rule.length`` 3 and
    ``start_token`` "always"::

        document so far    EOT t0 t1 t2 t3
        token 0            EOT
        token 1            EOT t0
        token 2            EOT t0 t1
        token 3                t0 t1 t2
        token 4                   t1 t2 t3

    In the scoring of windows, contexts are between one token and the full length; here they are always as
    long as possible.

    Parameters
    ----------
    model : torch.nn.Module
        With ``hidden(ids (1, T)) -> (1, T, W)`` and ``head(hidden) -> float32 logits (..., V)``, in
        evaluation mode, on the CPU.
    rule : tokenbounds.corpus.contexts.ContextRule
        Context of a prediction; its `start_id` is the EOT.
    rng : numpy.random.Generator
        Source of one random number per token.
    tokens : int
        Most tokens to add.
    prompt : array_like of int
        First tokens of the document; without any, it is generated from the start token on.
    temperature, top_k
        As for `distribution`.
    name : str
        Name of the model, for errors.

    Returns
    -------
    Sample

    Raises
    ------
    InputError
        A logit is not finite.
    """
    ids, given = np.array(prompt, dtype=np.int64), len(prompt)
    for _ in range(tokens):
        begin = max(0, ids.size - rule.length)
        context = with_start(ids[begin:], begin == 0, rule)
        logits = model.head(model.hidden(torch.from_numpy(context[None]))[0, -1]).double().numpy()
        if not np.isfinite(logits).all():
            raise InputError(f"{name}: the prediction for token {ids.size} of a generated text is not finite")
        token = rng.choice(logits.size, p=distribution(logits, temperature, top_k))
        if token == rule.start_id:
            return Sample(ids[given:], True)
        ids = np.append(ids, token)
    return Sample(ids[given:], False)


def samples_of(run, certificate, seed, *, prompts, tokens, temperature, count, top_k=None):
    """Generate text with the hypothesis of a certificate, decoded from its message.

    Parameters
    ----------
    run : path
        Folder of the run, with the message and the tokenizer.
    certificate : dict
        As `tokenbounds.certificates.files.read_certificate` returns it.
    seed : int
        Seed of the run; each sample has the stream "generate", certificate, number of the prompt, number of
        the sample.
    prompts : list of str
        Beginnings of texts; an empty one stands for the start token.
    tokens, temperature, top_k
        As for `generate`.
    count : int
        Samples per prompt.

    Returns
    -------
    list of dict

        ==========  ====================================================
        ``prompt``  the prompt
        ``sample``  number of the sample, from 1
        ``tokens``  number of new tokens
        ``ended``   whether the model ended the document
        ``text``    the text, with the prompt
        ==========  ====================================================

    Raises
    ------
    InputError
        The message is not that of the certificate, or as for `generate`.
    """
    entry, sampling, corpus = (
        certificate["hypothesis"]["message"],
        certificate["sampling"],
        certificate["corpus"]["name"],
    )
    scheme = {key: sampling[key] for key in ("mode", "context_length", "window") if key in sampling}
    path = Path(run) / entry["path"]
    if (sha256 := sha256_file(path)) != entry["sha256"]:
        raise InputError(
            f"{path}: sha256 {sha256[:12]}...; expected {entry['sha256'][:12]}..., "
            f"that of certificate {certificate['name']}"
        )
    message, model = read_model(path)
    rule = context_rule(message, scheme, str(path))
    tokenizer = load_tokenizer(Path(run) / "tokens" / corpus / "tokenizer")
    samples = []
    for number, (prompt, ids) in enumerate(zip(prompts, tokenizer.encode_batch(prompts), strict=True)):
        for sample in range(1, count + 1):
            rng = generator(seed, "generate", certificate["name"], number, sample)
            made = generate(
                model,
                rule,
                rng,
                tokens=tokens,
                prompt=ids,
                temperature=temperature,
                top_k=top_k,
                name=str(path),
            )
            text = tokenizer.decode([*ids, *made.ids])
            samples.append(
                {
                    "prompt": prompt,
                    "sample": sample,
                    "tokens": made.ids.size,
                    "ended": made.ended,
                    "text": text,
                }
            )
    return samples
