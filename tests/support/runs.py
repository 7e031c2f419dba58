"""A tiny complete run folder for tests, made without Snakemake."""

import numpy as np

from support.corpora import write_corpus
from support.stores import random_documents
from tokenbounds.certificates.files import write_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.codecs.decode import encode_model, with_head, write_message
from tokenbounds.config.schema import Sampling, slice_of
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.io.files import canonical_json
from tokenbounds.models.folders import save_model
from tokenbounds.models.gpt import GPT
from tokenbounds.scoring.parts import score_part

VOCAB, EOT, SEED, PARTS = 50, 0, 137, 2
SCHEMES = {
    "token": Sampling(mode="token", n=40, context_length=16),
    "windows": Sampling(mode="window", n=12, window=8, context_length=16),
}
SETTINGS = {"alpha": [0.01, 0.1, 0.5], "top_k": [1, 10]}
ARITHMETIC = {"dtype": "float32", "multiple": 8, "batch_tokens": 64}
CHOICES = {"sampling scheme": 1.0}
ARCHITECTURE = {
    "layers": 1,
    "heads": 1,
    "width": 8,
    "context_length": 16,
    "positions": "rotary",
    "bias": False,
}
CONFIG = {
    "family": "gpt",
    "vocab_size": VOCAB,
    "architecture": ARCHITECTURE,
    "start_token": "first",
    "eot_id": EOT,
}


def certificate_path(run, sampling):
    return run / "bounds" / f"gpt.levels.text.{sampling}.json"


def context_of(scheme):
    """Entry of a sampling scheme in a message."""
    return slice_of(scheme, include={"mode", "context_length", "window"})


def contexts_of(schemes):
    """All contexts of sampling schemes, as a message holds them."""
    entries = {canonical_json(context_of(scheme)): context_of(scheme) for scheme in schemes.values()}
    return {"arithmetic": ARITHMETIC, "schemes": [entries[key] for key in sorted(entries)]}


def make(run, name, scheme=None, *, settings=SETTINGS, parts=PARTS):
    """Make the certificate of a scheme from the files of a run."""
    options = {"delta": 0.05, "settings": settings, "choices_bits": CHOICES, "parts": parts}
    return make_certificate(
        run, f"gpt.levels.text.{name}", scheme=slice_of(scheme or SCHEMES[name]), **options
    )


def write_run(run, schemes=SCHEMES, *, config=CONFIG, head=None, settings=SETTINGS):
    """Write a run folder: corpus, model, message, and records and certificates of all schemes.

    The model described by `config` has random weights; `head` (an `AlphaHead`) follows it in the message.
    """
    documents = random_documents(np.random.default_rng(5), 84)
    write_corpus(run / "tokens/text", documents, VOCAB, shards=3, val=0.04)
    index = CorpusIndex(run / "tokens/text/train")
    model, config = GPT.create(config, 3)
    if "init" not in config:
        model.initialize(3)
    save_model(run / "models/gpt", model, config, {})
    message = run / "messages/gpt.levels.bin"
    data = encode_model(run / "models/gpt", {"kind": "levels", "levels": 7}, contexts_of(schemes))
    write_message(message, data if head is None else with_head(data, head))
    for name, scheme in schemes.items():
        for part in range(PARTS):
            records = run / f"risk/gpt.levels.text.{name}/{part:05d}.parquet"
            facts = {"part": part, "parts": PARTS, "seed": SEED, "device": "cpu"}
            score_part(
                message,
                index.folder,
                records,
                records.with_suffix(".json"),
                name="gpt.levels",
                context=context_of(scheme),
                n=scheme.n,
                beacon=scheme.beacon,
                **facts,
            )
        write_certificate(certificate_path(run, name), make(run, name, scheme, settings=settings))
    return run
