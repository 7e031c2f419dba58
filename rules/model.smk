"""Token shards to trained models, and published models to the same form.

Checkpoints lie in an undeclared folder named by a hash of all that decides the weights (workflow_scripts/train.py): Snakemake removes declared
outputs of a job that was cut off, and a killed training continues from its last checkpoint.
"""


localrules:
    download_model,


rule train:
    input:
        train=training_tokens,
        start=lambda w: (
            f"results/{w.run}/models/{start}/model.safetensors" if (start := getattr(CONFIG.models[w.model], "start_from", None)) else []
        ),
        val=lambda w: f"results/{w.run}/tokens/{CONFIG.models[w.model].corpus}/val/index.json",
        package=package("training", "checkpoints", "corpus", "devices", *MODELS),
    output:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        curve="results/{run}/models/{model}/curve.csv",
        plot="results/{run}/models/{model}/curve.png",
    log:
        "results/{run}/logs/train/{model}.log",
    benchmark:
        "results/{run}/benchmarks/train/{model}.tsv"
    wildcard_constraints:
        model=models_of("gpt", "transformers"),
    threads: lambda w: CONFIG.models[w.model].training.threads * CONFIG.models[w.model].training.processes
    resources:
        mem_mb=lambda w, attempt: 8000 * CONFIG.models[w.model].training.processes * min(attempt, 2),
        # Not scaled: a retry continues from the last checkpoint, and there may be many.
        runtime="7d",
        gpu=lambda w: CONFIG.models[w.model].training.processes,
    params:
        # How often a checkpoint is written changes no weight, so it neither makes a model stale nor a checkpoint useless.
        model=lambda w: slice_of(CONFIG.models[w.model], exclude={"training": {"checkpoint_minutes"}}),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/train.py"


rule markov:
    input:
        index=training_tokens,
        package=package("models/markov", "models/__init__", "count_codec", "corpus", "streams"),
    output:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
    log:
        "results/{run}/logs/markov/{model}.log",
    benchmark:
        "results/{run}/benchmarks/markov/{model}.tsv"
    wildcard_constraints:
        model=models_of("markov"),
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(60),
    params:
        model=lambda w: slice_of(CONFIG.models[w.model]),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/markov.py"


rule download_model:
    output:
        manifest="resources/models/{model}/download.json",
    log:
        "resources/logs/download_model/{model}.log",
    benchmark:
        "resources/benchmarks/download_model/{model}.tsv"
    wildcard_constraints:
        model=models_of(*PUBLISHED),
    retries: 3
    params:
        repository=lambda w: CONFIG.models[w.model].hub,
        revision=lambda w: CONFIG.models[w.model].revision,
        repository_type="model",
        weights=True,
    script:
        "../workflow_scripts/download.py"


rule pretrained:
    input:
        files=published_files,
        index=training_tokens,
        package=package("models/__init__", "models/causal"),
    output:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
    log:
        "results/{run}/logs/pretrained/{model}.log",
    benchmark:
        "results/{run}/benchmarks/pretrained/{model}.tsv"
    wildcard_constraints:
        model=models_of("pretrained"),
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(2 * 60),
    params:
        model=lambda w: slice_of(CONFIG.models[w.model], exclude={"expected"}),
    script:
        "../workflow_scripts/pretrained.py"
