"""Token shards to trained models.

Checkpoints lie in an undeclared folder named by a hash of all that decides the weights (workflow_scripts/train.py): Snakemake removes declared
outputs of a job that was cut off, and a killed training continues from its last checkpoint.
"""


rule train:
    input:
        train=lambda w: f"results/{w.run}/tokens/{CONFIG.models[w.model].corpus}/train/index.json",
        val=lambda w: f"results/{w.run}/tokens/{CONFIG.models[w.model].corpus}/val/index.json",
        package=package("training", "checkpoints", "models/__init__", "models/gpt", "streams", "corpus", "devices"),
    output:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        curve="results/{run}/models/{model}/curve.csv",
        plot="results/{run}/models/{model}/curve.png",
    log:
        "results/{run}/logs/train/{model}.log",
    benchmark:
        "results/{run}/benchmarks/train/{model}.tsv"
    threads: lambda w: CONFIG.models[w.model].training.threads * CONFIG.models[w.model].training.processes
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime="5d",
        gpu=lambda w: CONFIG.models[w.model].training.processes,
    params:
        # How often a checkpoint is written changes no weight, so it neither makes a model stale nor a checkpoint useless.
        model=lambda w: slice_of(CONFIG.models[w.model], exclude={"training": {"checkpoint_minutes"}}),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/train.py"
