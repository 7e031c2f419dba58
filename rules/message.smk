"""Models to coded messages: C(h) is eight times the message's bytes, and everything downstream uses the model decoded from it."""


rule message:
    input:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        package=package("quantize", "message", "hypothesis", "models/__init__", "models/gpt"),
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/message/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/message/{model}.{codec}.tsv"
    resources:
        mem_mb=lambda w, attempt: 8000 * attempt,
        runtime="2h",
    params:
        codec=lambda w: slice_of(CONFIG.codecs[w.codec]),
        contexts=CONFIG.contexts,
    script:
        "../workflow_scripts/message.py"
