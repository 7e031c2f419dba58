"""Training sequences that quantized models still know by heart (the paper's Figure 4)."""


rule memorization:
    input:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        index=training_tokens,
        tokenizer=model_tokenizer,
    output:
        accuracies="results/{run}/memorization/{figure}.{model}.csv",
        sidecar="results/{run}/memorization/{figure}.{model}.json",
    log:
        "results/{run}/logs/memorization/{figure}.{model}.log",
    benchmark:
        "results/{run}/benchmarks/memorization/{figure}.{model}.tsv"
    wildcard_constraints:
        figure=one_of(name for name, figure in CONFIG.figures.items() if hasattr(figure, "levels")),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(4 * 60),
        gpu=1,
    params:
        code=code("experiments.memorization", "codecs.levels", hypotheses=own),
        levels=from_figure("levels"),
        method=from_figure("method"),
        arithmetic=lambda wildcards: model_contexts(wildcards)["arithmetic"],
    script:
        "../workflow_scripts/memorization.py"
