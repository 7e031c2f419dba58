"""Token shards to trained models, and published models to the same form.

Checkpoints lie in an undeclared folder named by a hash of all that decides the weights
(tokenbounds/training/job.py): Snakemake removes declared outputs of a job that was cut off, and a killed
training continues from its last checkpoint.
"""


localrules:
    download_model,


rule train:
    input:
        train=training_tokens,
        start=start_weights,
        val=validation_tokens,
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
        model=made_by(CONFIG.models, "train"),
    threads: training_threads
    resources:
        mem_mb=training_memory,
        # Not scaled: a retry continues from the last checkpoint, and there may be many.
        runtime="7d",
        gpu=from_model("training.processes"),
    params:
        # How often a checkpoint is written changes no weight, so it neither makes a model stale nor a
        # checkpoint useless.
        code=code("training.job", hypotheses=own),
        section=from_model(exclude={"training": {"checkpoint_minutes"}, "arithmetic": True}),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/train.py"


rule markov:
    input:
        index=training_tokens,
    output:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
    log:
        "results/{run}/logs/markov/{model}.log",
    benchmark:
        "results/{run}/benchmarks/markov/{model}.tsv"
    wildcard_constraints:
        model=made_by(CONFIG.models, "markov"),
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(60),
    params:
        code=code("models.markov", "models.folders", "corpus.store"),
        section=from_model(exclude={"arithmetic"}),
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
        model=made_by(CONFIG.models, "pretrained", "download_model"),
    retries: 3
    params:
        repository=from_model("hub"),
        revision=from_model("revision"),
        repository_type="model",
        patterns=gguf_file,
        weights=True,
    script:
        "../workflow_scripts/download.py"


rule pretrained:
    input:
        files=published_files,
        tokenizer=model_tokenizer,
    output:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
    log:
        "results/{run}/logs/pretrained/{model}.log",
    benchmark:
        "results/{run}/benchmarks/pretrained/{model}.tsv"
    wildcard_constraints:
        model=made_by(CONFIG.models, "pretrained"),
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(2 * 60),
    params:
        code=code("models.pretrained"),
        section=from_model(exclude={"arithmetic", "expected"}),
    script:
        "../workflow_scripts/pretrained.py"
