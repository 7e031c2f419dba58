"""Decoded models and drawn positions to records: one row per scored token. Records do not depend on α, k, δ or the method."""


rule gate:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        index=training_tokens,
        package=package("gate", "scoring", "corpus", "published", *DECODING),
    output:
        gate="results/{run}/gates/{model}.{codec}.json",
    log:
        "results/{run}/logs/gate/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/gate/{model}.{codec}.tsv"
    wildcard_constraints:
        model=models_of(*PUBLISHED),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(2 * 60),
        gpu=1,
    params:
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/gate.py"


rule score:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        gate=gate_file,
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        index="results/{run}/tokens/{corpus}/train/index.json",
        package=package("scoring", "records", "corpus", "published", *DECODING),
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
        runtime=scaled(lambda w: (24 if CONFIG.models[w.model].family in PUBLISHED else 8) * 60),
        gpu=1,
    params:
        parts=CONFIG.scoring.parts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/score.py"
