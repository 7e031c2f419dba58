"""A tiny complete run folder for tests, made without Snakemake."""

import numpy as np

from support.stores import random_documents, write_store
from tokenbounds.certificates.files import write_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.codecs.decode import encode_model, with_head, write_message
from tokenbounds.config.schema import Sampling
from tokenbounds.corpus.sampling import write_positions
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.io.files import write_json
from tokenbounds.models.folders import save_model
from tokenbounds.models.gpt import GPT
from tokenbounds.scoring.parts import score_part

VOCAB, EOT, SEED, PARTS = 50, 0, 137, 2
SCHEMES = {
    "token": Sampling(mode="token", n=40, context_length=16),
    "windows": Sampling(mode="window", n=12, window=8, context_length=16),
}
SETTINGS = {"alpha": [0.01, 0.1, 0.5], "top_k": [1, 10]}
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


def write_run(run, schemes=SCHEMES, *, config=CONFIG, head=None, settings=SETTINGS):
    """Write a run folder: corpus, model, message, and draws, records and certificates of all schemes.

    The model described by `config` has random weights; `head` (an `AlphaHead`) follows it in the message.
    """
    write_store(
        run / "tokens/text/train", random_documents(np.random.default_rng(5), 80), VOCAB, EOT, shards=3
    )
    tokenizer = {"kind": "train", "sha256": "0" * 64, "eot": "<|endoftext|>", "eot_id": EOT}
    write_json(run / "tokens/text/tokenizer/info.json", tokenizer)
    write_json(run / "tokens/text/documents.json", {"roles": {"train": 80, "val": 4, "tokenizer": 9}})
    index = CorpusIndex(run / "tokens/text/train")
    model, config = GPT.create(config, 3)
    if "init" not in config:
        model.initialize(3)
    save_model(run / "models/gpt", model, config, {})
    contexts = {name: scheme.model_dump(exclude={"n"}, exclude_none=True) for name, scheme in schemes.items()}
    message = run / "messages/gpt.levels.bin"
    data = encode_model(run / "models/gpt", {"kind": "levels", "levels": 7}, contexts)
    write_message(message, data if head is None else with_head(data, head))
    for name, scheme in schemes.items():
        draws = run / f"positions/text.{name}.parquet"
        write_positions(draws, index, scheme, SEED, "text")
        for part in range(PARTS):
            records = run / f"risk/gpt.levels.text.{name}/{part:05d}.parquet"
            facts = {"part": part, "parts": PARTS, "seed": SEED, "batch_tokens": 64, "device": "cpu"}
            score_part(
                message,
                draws,
                index.folder,
                records,
                records.with_suffix(".json"),
                name="gpt.levels",
                sampling=name,
                **facts,
            )
        made = make_certificate(
            run, f"gpt.levels.text.{name}", delta=0.05, settings=settings, choices_bits=CHOICES, parts=PARTS
        )
        write_certificate(certificate_path(run, name), made)
    return run
