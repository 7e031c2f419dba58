"""A tiny run with one model of a configuration, from training to its certificate, made without Snakemake."""

import numpy as np

from support.stores import random_documents, write_store
from tokenbounds.certificates.files import write_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.codecs.encode import code_model
from tokenbounds.codecs.sidecar import write_with_sidecar
from tokenbounds.config.schema import slice_of
from tokenbounds.corpus.sampling import write_positions
from tokenbounds.corpus.store import CorpusIndex, TokenStore
from tokenbounds.io.files import write_json
from tokenbounds.scoring.parts import score_part
from tokenbounds.training.loop import train

VOCAB, EOT = 50, 0


def write_run(run, config, model, codec):
    """Train, code, score and certify a model; return the path of the certificate."""
    corpus = config.models[model].corpus
    tokens, rng = run / "tokens" / corpus, np.random.default_rng(5)
    for split, documents in (("train", 80), ("val", 20)):
        write_store(tokens / split, random_documents(rng, documents), VOCAB, EOT, split=split)
    tokenizer = {"kind": "train", "sha256": "0" * 64, "eot": "<|endoftext|>", "eot_id": EOT}
    write_json(tokens / "tokenizer/info.json", tokenizer)
    write_json(tokens / "documents.json", {"roles": {"train": 80, "val": 20, "tokenizer": 9}})
    folder, message = run / "models" / model, run / "messages" / f"{model}.{codec}.bin"
    train(
        config.models[model],
        name=model,
        seed=config.seed,
        train_tokens=TokenStore(tokens / "train"),
        val_tokens=TokenStore(tokens / "val"),
        out_dir=folder,
        checkpoint_dir=run / "checkpoints",
        device="cpu",
    )
    section = slice_of(config.codecs[codec])
    data, _ = code_model(folder, section, config.contexts, name=model, seed=config.seed, device="cpu")
    write_with_sidecar(message, message.with_suffix(".json"), data, section)
    (sampling,) = config.schemes
    draws = run / f"positions/{corpus}.{sampling}.parquet"
    write_positions(draws, CorpusIndex(tokens / "train"), config.sampling, config.seed, corpus)
    name = f"{model}.{codec}.{corpus}.{sampling}"
    records = run / "risk" / name / "00000.parquet"
    score_part(
        message,
        draws,
        tokens / "train",
        records,
        records.with_suffix(".json"),
        name=f"{model}.{codec}",
        sampling=sampling,
        part=0,
        parts=1,
        seed=config.seed,
        batch_tokens=64,
        device="cpu",
    )
    certificate = make_certificate(
        run,
        name,
        delta=config.delta,
        settings=slice_of(config.bounds),
        choices_bits=config.choices_bits(),
        parts=1,
    )
    path = run / "bounds" / f"{name}.json"
    write_certificate(path, certificate)
    return path
