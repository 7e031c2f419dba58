"""Decoded models to records of their draws: one row per scored token. Records do not depend on α, k, δ or
the method."""


rule sanity_check:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        index=training_tokens,
        undamaged=undamaged_weights,
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
        published_loss=published_loss,
        limits=from_model(include={"sanity_limit", "sanity_damage"}),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/sanity_check.py"


rule score:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        sanity_check=sanity_check_file,
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
        code=code("scoring.parts", "scoring.acceptance", hypotheses=own),
        scheme=from_scheme(),
        parts=CONFIG.scoring.parts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/score.py"
