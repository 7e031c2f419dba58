"""A tiny run with one model of a configuration, from training to its certificate, made without Snakemake."""

import numpy as np

from support.corpora import write_corpus
from support.stores import random_documents
from tokenbounds.certificates.files import write_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.codecs.encode import code_model
from tokenbounds.codecs.sidecar import write_with_sidecar
from tokenbounds.config.schema import slice_of
from tokenbounds.corpus.store import TokenStore
from tokenbounds.scoring.parts import score_part
from tokenbounds.training.loop import train

VOCAB, EOT = 50, 0


def write_run(run, config, model, codec):
    """Train, code, score and certify a model; return the path of the certificate."""
    corpus = config.models[model].corpus
    tokens, rng = run / "tokens" / corpus, np.random.default_rng(5)
    write_corpus(tokens, random_documents(rng, 100), VOCAB, val=0.2)
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
    data, _ = code_model(folder, section, config.contexts(model), name=model, seed=config.seed, device="cpu")
    write_with_sidecar(message, message.with_suffix(".json"), data, section)
    (sampling,) = config.schemes
    scheme = config.schemes[sampling]
    name = f"{model}.{codec}.{corpus}.{sampling}"
    records = run / "risk" / name / "00000.parquet"
    score_part(
        message,
        tokens / "train",
        records,
        records.with_suffix(".json"),
        name=f"{model}.{codec}",
        context=config.context(sampling),
        n=scheme.n,
        beacon=scheme.beacon,
        part=0,
        parts=1,
        seed=config.seed,
        device="cpu",
    )
    certificate = make_certificate(
        run,
        name,
        delta=config.delta,
        settings=slice_of(config.bounds),
        choices_bits=config.choices_bits(),
        parts=1,
        scheme=config.scheme(sampling),
    )
    path = run / "bounds" / f"{name}.json"
    write_certificate(path, certificate)
    return path
