"""Choice of a message's size: the one with the least predicted bound.

The bound of a coarse message is too large by its loss, that of a fine one by its length. Candidates are
compared by the betting bound that their loss on calibration tokens predicts at the corpus' number of tokens.
These are training tokens, and no draws: draws depend on the message (docs/theory.md, section 10), and are not
known before it is chosen.
"""

import logging
import math

import torch

from tokenbounds.bounds import Bpd, Claim
from tokenbounds.bounds.methods import METHODS
from tokenbounds.codecs.decode import tensors_of
from tokenbounds.codecs.frame import decode, encode
from tokenbounds.devices import choose_device
from tokenbounds.models.folders import load_model
from tokenbounds.models.registry import context_length_of, fill_model
from tokenbounds.randomness import generator
from tokenbounds.training.batches import sample

log = logging.getLogger(__name__)
_METHOD = "betting"
TOKENS = 8192  # scored for each candidate


def scored_length(contexts, longest):
    """Return the longest context, in tokens, that a model's predictions will be scored with.

    Parameters
    ----------
    contexts : dict
        Of the hypothesis, as its message holds them.
    longest : int
        Longest input of the model.
    """
    return min(longest, max(scheme["context_length"] for scheme in contexts["schemes"]))


class Predictor:
    """Predicts bounds of quantized forms of a model from their loss on calibration tokens.

    Parameters
    ----------
    tokens : tokenbounds.corpus.store.TokenStore
        Training tokens.
    rng : numpy.random.Generator
        Draws the calibration tokens.
    length : int
        Tokens per context.
    device : torch.device
    """

    def __init__(self, tokens, rng, length, device):
        self._m, rows = tokens.m, -(-TOKENS // max(length // 2, 1))
        self.ids, self.targets = sample(tokens, rng, rows, length, device)

    @torch.no_grad()
    def loss(self, model):
        """Compute log2 q and entropy in bits of the later half of each context, ndarrays."""
        log2_q, entropy = [], []
        per_batch = max(1, 4096 // self.ids.shape[1])
        for ids, targets in zip(self.ids.split(per_batch), self.targets.split(per_batch), strict=True):
            half = ids.shape[1] // 2
            hidden = model.hidden(ids)[:, half:].flatten(0, 1)
            for states, chosen in zip(
                hidden.split(1024), targets[:, half:].flatten().split(1024), strict=True
            ):
                shares = torch.log_softmax(model.head(states).double(), -1) / math.log(2)
                log2_q.append(shares.gather(1, chosen[:, None])[:, 0])
                entropy.append(-(shares.exp2() * shares).nan_to_num().sum(-1))
        return torch.cat(log2_q).cpu().numpy(), torch.cat(entropy).cpu().numpy()

    def bound(self, model, bits):
        """Return the predicted bound and the mean loss, both in bits per token, of a model whose message has
        so many bits."""
        log2_q, entropy = self.loss(model)
        losses = Bpd(log2_q.clip(max=0), model.vocab_size, entropies=entropy)
        claim = Claim(message_bits=bits, m=max(self._m, len(log2_q)))
        return METHODS[_METHOD].bound(losses, claim).value, float(-log2_q.mean())


def predicted(model, predictor, tensors, options):
    """Return the predicted bound, the mean loss and the length in bits of a model's coded tensors.

    Parameters
    ----------
    model : torch.nn.Module
        It takes the decoded values.
    predictor : Predictor
    tensors : dict of str to tensor, as `tokenbounds.codecs.frame.encode` takes them
    options : dict
        The codec and its options.
    """
    data = encode(tensors, {}, codec=options)
    fill_model(model, decode(data).tensors, "the quantized model")
    bits = 8 * len(data)
    bound, loss = predictor.bound(model, bits)
    values = sum(math.prod(tensor.shape) for tensor in tensors.values())
    message = "%s: %.3f bits per parameter, loss %.4f, predicted bound %.4f"
    log.info(message, options, bits / values, loss, bound)
    return bound, loss, bits


def best_levels(folder, codec, *, name, seed, tokens, device, contexts):
    """Prepare codec ``levels`` with as many levels as are best (see `tokenbounds.codecs.encode.code_model`).

    Tried are 4, 8, ... 128 levels, and then numbers around the best of them.
    """
    model, config = load_model(folder)
    tensors = tensors_of(model)
    tensors = {key: value.copy() for key, value in tensors.items()}
    device = choose_device(device)
    length = scored_length(contexts, context_length_of(config))
    predictor = Predictor(tokens, generator(seed, "size", name), length, device)
    model.to(device)
    options = {key: codec[key] for key in ("kind", "method", "codebook")}
    found = {}

    def evaluate(binary_logarithm):
        levels = round(2.0**binary_logarithm)
        found[binary_logarithm] = predicted(model, predictor, tensors, options | {"levels": levels})
        return found[binary_logarithm][0]

    best = least([2.0, 3.0, 4.0, 5.0, 6.0, 7.0], evaluate, refine=2)
    bound, loss, _ = found[best]
    levels = round(2.0**best)
    report = {"levels": levels, "predicted_bound": bound, "calibration_loss_bits": loss}
    return options | {"levels": levels}, tensors, {"size": report}


def least(candidates, evaluate, *, refine, beyond=0):
    """Find the candidate with the least value.

    Parameters
    ----------
    candidates : list of float
        Ascending, evenly spaced.
    evaluate : callable (float) -> float
    refine : int
        How often the spacing is halved around the best one.
    beyond : int
        Most candidates after the last one, each tried while the one before it is the best.

    Returns
    -------
    float
    """
    values = {candidate: evaluate(candidate) for candidate in candidates}
    spacing = candidates[1] - candidates[0] if len(candidates) > 1 else 0.0
    last = candidates[-1]
    for _ in range(beyond):
        if min(values, key=values.__getitem__) != last:
            break
        last += spacing
        values[last] = evaluate(last)
    for _ in range(refine):
        spacing /= 2
        best = min(values, key=values.__getitem__)
        for near in (best - spacing, best + spacing):
            if near not in values:
                values[near] = evaluate(near)
    return min(values, key=values.__getitem__)
