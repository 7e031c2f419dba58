"""Models to coded messages: C(h) is eight times the message's bytes, and everything downstream uses the model decoded from it."""


rule message:
    input:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        tokens=lambda w: training_tokens(w) if learns(w) else [],
        learning=lambda w: package("tuning", "training", "corpus", "devices") if learns(w) else [],
        package=package("coding", "quantize", "lattice", "models/quip", "message", "hypothesis", *MODELS),
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/message/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/message/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=codecs_of("levels", "lattice"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=lambda w, attempt: (32000 if CONFIG.models[w.model].family == "pretrained" else 8000) * attempt,
        runtime="4h",
        gpu=lambda w: 1 if learns(w) else 0,
    params:
        codec=lambda w: slice_of(CONFIG.codecs[w.codec]),
        contexts=CONFIG.contexts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/message.py"


rule alpha_head:
    input:
        message=lambda w: f"results/{w.run}/messages/{w.model}.{CONFIG.codecs[w.codec].base}.bin",
        index=training_tokens,
        package=package("head_training", "metrics", "scoring", "corpus", "bounds/[!p]*", *DECODING),
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/alpha_head/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/alpha_head/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=codecs_of("alpha_head"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=lambda w, attempt: 16000 * attempt,
        runtime="4h",
        gpu=1,
    params:
        codec=lambda w: slice_of(CONFIG.codecs[w.codec]),
        delta=CONFIG.delta,
        n=CONFIG.sampling.n,
        sampling=lambda w: CONFIG.sampling.mode,
        choices_bits=CONFIG.choices_bits(),
        bounds_settings=slice_of(CONFIG.bounds, exclude={"candidates", "top_k"}),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/alpha_head.py"
