"""Models to coded messages: C(h) is eight times the message's bytes, and everything downstream uses the model decoded from it."""


rule message:
    input:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        tokens=lambda w: training_tokens(w) if learns(w) else [],
        learning=lambda w: package("tuning", "training", "corpus", "devices") if learns(w) else [],
        package=package("coding", "quantize", "lattice", "models/quip", "count_codec", "models/markov", "message", "hypothesis", *MODELS),
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/message/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/message/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=codecs_of("levels", "lattice", "counts"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(lambda w: 32000 if CONFIG.models[w.model].family == "pretrained" else 8000),
        runtime=scaled(4 * 60),
        gpu=lambda w: 1 if learns(w) else 0,
    params:
        codec=lambda w: slice_of(CONFIG.codecs[w.codec]),
        contexts=CONFIG.contexts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/message.py"


rule compress:
    input:
        files=published_files,
        index=training_tokens,
        package=package("published", "compressors", "message", "models/__init__", "models/causal", "models/quip"),
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/compress/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/compress/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=codecs_of("zip"),
    resources:
        # A QuIP# checkpoint is never loaded whole; another one is, to check it.
        mem_mb=scaled(lambda w: 4000 if CONFIG.models[w.model].family == "quip" else 32000),
        runtime=scaled(12 * 60),
    params:
        model=lambda w: slice_of(CONFIG.models[w.model], exclude={"expected"}),
        codec=lambda w: slice_of(CONFIG.codecs[w.codec]),
        contexts=CONFIG.contexts,
    script:
        "../workflow_scripts/compress.py"


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
        mem_mb=scaled(16000),
        runtime=scaled(4 * 60),
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
