"""Batches of token windows, and the random streams of a training.

Nothing random has state: a batch and the dropout masks on it are functions of the seed, the model's name, the
step and the micro-batch's number. A training that continues from a checkpoint therefore draws the same
numbers as one that was never interrupted.
"""

import contextlib

import numpy as np
import torch

from tokenbounds.randomness import generator, stream_seed


def sample(tokens, rng, batch_size, length, device):
    """Draw windows at uniform positions of a token stream.

    Parameters
    ----------
    tokens : tokenbounds.corpus.store.TokenStore
        Or anything with ``m`` (tokens), ``eot_id`` and ``tokens(start, stop)``.
    rng : numpy.random.Generator
        Draws the windows' starts.
    batch_size, length : int
        Windows, and tokens per window.
    device : torch.device

    Returns
    -------
    ids, targets : torch.Tensor
        (batch_size, length) int64 each: the windows, and the token after each of their tokens. With length 0
        they are (batch_size, 1), and the only input is EOT: the start token, after which a model without
        context predicts.
    """
    starts = rng.integers(0, tokens.m - length, size=batch_size)
    rows = np.stack([tokens.tokens(start, start + length + 1) for start in starts.tolist()]).astype(np.int64)
    if length == 0:
        rows = np.insert(rows, 0, tokens.eot_id, axis=1)
    batch = torch.from_numpy(rows)
    batch = batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


@contextlib.contextmanager
def dropout_stream(device, seed, *names):
    """Seed torch's default generator, within, by the stream `names`; afterwards it is as it was."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        number = stream_seed(seed, *names) % 2**63
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed(number)
        yield


class Batches:
    """All batches of one training, and their dropout masks.

    Parameters
    ----------
    train_tokens, val_tokens : tokenbounds.corpus.store.TokenStore
        As for `sample`.
    seed : int
        The run's seed.
    name : str
        The model's name; with `seed` it names the random streams.
    batch_size, length : int
        Sequences per batch, and tokens per sequence.
    device : torch.device
    """

    def __init__(self, train_tokens, val_tokens, *, seed, name, batch_size, length, device):
        self.train_tokens, self.val_tokens = train_tokens, val_tokens
        self.seed, self.name = seed, name
        self.batch_size, self.length, self.device = batch_size, length, device

    @property
    def tokens(self):
        """Number of tokens that a batch predicts."""
        return self.batch_size * max(self.length, 1)

    @property
    def validates(self):
        """Whether the validation split has enough tokens for a sequence."""
        return self.val_tokens.m > self.length

    def training(self, step, micro):
        """Draw micro-batch number `micro` of a step."""
        return self._sample(self.train_tokens, "data_order", self.name, step, micro)

    def validation(self, number):
        """Draw a batch to validate on; it is the same whenever it is asked for."""
        return self._sample(self.val_tokens, "validation", self.name, number)

    def dropout(self, step, micro):
        """Seed the dropout masks of a micro-batch, within."""
        return dropout_stream(self.device, self.seed, "dropout", self.name, step, micro)

    def _sample(self, tokens, *names):
        return sample(tokens, generator(self.seed, *names), self.batch_size, self.length, self.device)
