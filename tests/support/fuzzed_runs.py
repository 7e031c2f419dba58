"""Tiny complete runs to damage: a coded model, and published files of both kinds.

``PYTHONPATH=tests python -m support.fuzzed_runs FOLDER`` writes each as ``FOLDER/{kind}/results/run``."""

import sys
from pathlib import Path

import numpy as np
import torch

from support.causal_models import LLAMA, library_model
from support.corpora import write_corpus
from support.published import tokenizer_of
from support.quip_checkpoints import CONFIG, write_checkpoint
from support.runs import CHOICES, context_of, contexts_of, write_run
from support.stores import random_documents
from tokenbounds.certificates.files import write_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.codecs.archive import zip_message
from tokenbounds.codecs.decode import write_message
from tokenbounds.config.schema import Sampling, slice_of
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.io.files import write_json
from tokenbounds.scoring.parts import score_part

# Few grid points: a case takes as long as computing the bounds again.
SETTINGS = {
    "alpha": [0.01, 0.5],
    "top_k": [1],
    "bet_sizes": {"low": 0.01, "high": 0.99, "count": 4},
    "centre_linear": [0.0, 0.5],
    "centre_quadratic": [0.0],
    "centre_widths": [1.0],
    "freedman_fractions": {"low": 0.01, "high": 0.99, "count": 4},
    "lambda_exponents": {"low": -4, "high": 3},
    "sampling_bet_sizes": {"low": 0.01, "high": 0.98, "count": 4},
}
SCHEME = Sampling(mode="token", n=12, context_length=8)
NAME, VOCAB = "model.gzip.text.token", 50


def write_coded(folder):
    """Write a run of a model of codec `levels` under two sampling schemes; return its folder."""
    return write_run(folder / "results/run", settings=SETTINGS)


def write_published_run(folder, family):
    """Write a run of published files, ``quip`` (two shards) or ``pretrained``; return its folder."""
    run, published = folder / "results/run", folder / "published"
    if family == "quip":
        write_checkpoint(published, {**CONFIG, "vocab_size": VOCAB}, shards=2)
    else:
        library_model({**LLAMA, "vocab_size": VOCAB}).save_pretrained(published)
        (published / "generation_config.json").unlink(missing_ok=True)
    write_corpus(run / "tokens/text", random_documents(np.random.default_rng(5), 30), VOCAB)
    index = CorpusIndex(run / "tokens/text/train")
    options = {"family": family, "start_token": "first", "context_length": 16}
    tokens = tokenizer_of(VOCAB)
    contexts = contexts_of({"token": SCHEME})
    frame, _ = zip_message(
        published, {"tool": ["gzip"], "split_planes": False}, options, tokens, contexts, progress=False
    )
    message = run / "messages/model.gzip.bin"
    write_message(message, frame)
    write_json(message.with_suffix(".json"), {"folder": "published"})
    records, context = run / f"risk/{NAME}/00000.parquet", context_of(SCHEME)
    facts = {"part": 0, "parts": 1, "seed": 137, "device": "cpu"}
    options = {"name": "model.gzip", "context": context, "n": SCHEME.n, "beacon": "", **facts}
    score_part(message, index.folder, records, records.with_suffix(".json"), **options)
    settings = {"delta": 0.05, "settings": SETTINGS, "choices_bits": CHOICES, "parts": 1}
    write_certificate(
        run / f"bounds/{NAME}.json", make_certificate(run, NAME, scheme=slice_of(SCHEME), **settings)
    )
    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    write_coded(root / "coded")
    for kind in ("quip", "pretrained"):
        write_published_run(root / kind, kind)
