"""The bounded quantity and downstream performance (docs/downstream.md).

Next tokens are drawn anew in contexts of the corpus, and models are scored on them and on other corpora.
"""


rule resample:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        sanity_check=sanity_check_file,
        index="results/{run}/tokens/{corpus}/train/index.json",
    output:
        resampled="results/{run}/resampled/{figure}.{model}.{codec}.{corpus}.{sampling}.parquet",
        sidecar="results/{run}/resampled/{figure}.{model}.{codec}.{corpus}.{sampling}.json",
    log:
        "results/{run}/logs/resample/{figure}.{model}.{codec}.{corpus}.{sampling}.log",
    benchmark:
        "results/{run}/benchmarks/resample/{figure}.{model}.{codec}.{corpus}.{sampling}.tsv"
    wildcard_constraints:
        figure=DOWNSTREAM,
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(8 * 60),
        gpu=1,
    params:
        code=code("experiments.resampling", "scoring.acceptance", hypotheses=own),
        scheme=lambda wildcards: CONFIG.context(wildcards.sampling),
        contexts=from_figure("draws"),
        tokens=from_figure("tokens"),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/resample.py"


# One job for all models of a figure: most of its time at a small size would be starting.
rule score_resampled:
    input:
        messages=of_evaluated("results/{run}/messages/{model}.{codec}.bin"),
        tokenizers=of_evaluated("results/{run}/tokens/{corpus}/tokenizer"),
        files=of_evaluated(zipped_files),
        sanity_checks=of_evaluated(sanity_check_file),
        resampled=of_generator("results/{run}/resampled/{figure}.{certificate}.parquet"),
        sidecar=of_generator("results/{run}/resampled/{figure}.{certificate}.json"),
        index=of_generator("results/{run}/tokens/{corpus}/train/index.json"),
        tokenizer=of_generator("results/{run}/tokens/{corpus}/tokenizer"),
        downstream_indices=of_downstream("results/{run}/tokens/{corpus}/train/index.json"),
        downstream_tokenizers=of_downstream("results/{run}/tokens/{corpus}/tokenizer"),
    output:
        scores="results/{run}/resampled/{figure}.scores.json",
    log:
        "results/{run}/logs/score_resampled/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/score_resampled/{figure}.tsv"
    wildcard_constraints:
        figure=DOWNSTREAM,
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(8 * 60),
        gpu=1,
    params:
        code=code("experiments.downstream", "scoring.acceptance", hypotheses=evaluated),
        models=evaluated_names,
        corpora=from_figure("corpora"),
        scheme=lambda wildcards: CONFIG.context(generator_scheme(wildcards)),
        contexts=from_figure("draws"),
        tokens=from_figure("tokens"),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/score_resampled.py"
