"""A model whose predictions are known, and continuations that the generator of a small run drew."""

import numpy as np
import torch

from support.runs import SCHEMES, SEED, context_of
from tokenbounds.experiments.resampling import resample


class Bigram(torch.nn.Module):
    """The next token's probabilities depend on the last token only, and are a given matrix."""

    def __init__(self, probabilities):
        super().__init__()
        self.log_p = torch.nn.Parameter(torch.tensor(np.log(probabilities), dtype=torch.float32))

    def hidden(self, ids):
        return self.log_p[ids]

    def head(self, hidden):
        return hidden


def distributions(count, seed=3):
    return np.random.default_rng(seed).dirichlet(np.full(count, 0.7), size=count).clip(1e-6)


def resampled_of(run, folder, **changes):
    folder.mkdir(exist_ok=True)
    options = {
        "name": "gpt.levels",
        "corpus": "text",
        "scheme": context_of(SCHEMES["token"]),
        "draws": 30,
        "tokens": 1,
        "seed": SEED,
        "device": "cpu",
    }
    inputs = (
        run / "messages/gpt.levels.bin",
        run / "tokens/text/train",
    )
    path = folder / "r.parquet"
    resample(*inputs, path, path.with_suffix(".json"), **(options | changes))
    return path


def encoded(tokenizer, text):
    return tokenizer.encode_batch([text])[0].astype(int).tolist()
