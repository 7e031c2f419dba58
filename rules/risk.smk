"""Decoded models and drawn positions to records: one row per scored token. Records do not depend on α, k, δ or the method."""


rule score:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        index="results/{run}/tokens/{corpus}/train/index.json",
        package=package("scoring", "records", "corpus", *DECODING),
    output:
        records="results/{run}/risk/{model}.{codec}.{corpus}.{sampling}/{part}.parquet",
        sidecar="results/{run}/risk/{model}.{codec}.{corpus}.{sampling}/{part}.json",
    log:
        "results/{run}/logs/score/{model}.{codec}.{corpus}.{sampling}.{part}.log",
    benchmark:
        "results/{run}/benchmarks/score/{model}.{codec}.{corpus}.{sampling}.{part}.tsv"
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=lambda w, attempt: 16000 * attempt,
        runtime="8h",
        gpu=1,
    params:
        parts=CONFIG.scoring.parts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/score.py"
