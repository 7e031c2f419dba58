"""Decoded models and drawn positions to records: one row per scored token. Records do not depend on α, k, δ or the method."""


def zipped_files(wildcards):
    """The published files that are the hypothesis itself, where the message only names them."""
    return published_files(wildcards) if CONFIG.codecs[wildcards.codec].made_by == "compress" else []


def sanity_check_file(wildcards):
    """The loss of a published model on a few documents."""
    if CONFIG.models[wildcards.model].published:
        return f"results/{wildcards.run}/sanity_checks/{wildcards.model}.{wildcards.codec}.json"
    return []


def scoring_minutes(wildcards):
    """Time limit: a published model may have 70 billion parameters."""
    return (24 if CONFIG.models[wildcards.model].published else 8) * 60


rule sanity_check:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        index=training_tokens,
    output:
        sanity_check="results/{run}/sanity_checks/{model}.{codec}.json",
    log:
        "results/{run}/logs/sanity_check/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/sanity_check/{model}.{codec}.tsv"
    wildcard_constraints:
        model=one_of(name for name, model in CONFIG.models.items() if model.published),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(2 * 60),
        gpu=1,
    params:
        code=code("scoring.sanity_check", hypotheses=own),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/sanity_check.py"


rule score:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        sanity_check=sanity_check_file,
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        index="results/{run}/tokens/{corpus}/train/index.json",
    output:
        records="results/{run}/risk/{model}.{codec}.{corpus}.{sampling}/{part}.parquet",
        sidecar="results/{run}/risk/{model}.{codec}.{corpus}.{sampling}/{part}.json",
    log:
        "results/{run}/logs/score/{model}.{codec}.{corpus}.{sampling}.{part}.log",
    benchmark:
        "results/{run}/benchmarks/score/{model}.{codec}.{corpus}.{sampling}.{part}.tsv"
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        # A 70B model takes hours in float32, and a part that is cut off starts anew.
        runtime=scaled(scoring_minutes),
        gpu=1,
    params:
        code=code("scoring.parts", hypotheses=own),
        parts=CONFIG.scoring.parts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/score.py"
