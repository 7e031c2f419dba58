"""Models to coded messages: C(h) is eight times the message's bytes, and everything downstream uses the
model decoded from it."""


rule message:
    input:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        tokens=calibration_tokens,
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/message/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/message/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=made_by(CONFIG.codecs, "message"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(message_memory),
        runtime=scaled(4 * 60),
        gpu=calibrates,
    params:
        code=code("codecs.encode", "codecs.sidecar", hypotheses=own, preparation=True),
        options=from_codec(),
        contexts=model_contexts,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/message.py"


rule compress:
    input:
        files=published_files,
        tokenizer=model_tokenizer,
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/compress/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/compress/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=made_by(CONFIG.codecs, "compress"),
    resources:
        mem_mb=scaled(message_memory),
        runtime=scaled(12 * 60),
    params:
        code=code("codecs.archive", "codecs.sidecar", hypotheses=own),
        section=from_model(exclude={"arithmetic", "expected"}),
        options=from_codec(),
        contexts=model_contexts,
    script:
        "../workflow_scripts/compress.py"


rule alpha_head:
    input:
        base=base_message,
        sanity_check=base_sanity_check,
        index=training_tokens,
    output:
        message="results/{run}/messages/{model}.{codec}.bin",
        sidecar="results/{run}/messages/{model}.{codec}.json",
    log:
        "results/{run}/logs/alpha_head/{model}.{codec}.log",
    benchmark:
        "results/{run}/benchmarks/alpha_head/{model}.{codec}.tsv"
    wildcard_constraints:
        codec=made_by(CONFIG.codecs, "alpha_head"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(4 * 60),
        gpu=1,
    params:
        code=code("smoothing.from_message", "scoring.acceptance", "codecs.sidecar", hypotheses=own),
        options=from_codec(),
        objective=HEAD_OBJECTIVE,
    script:
        "../workflow_scripts/alpha_head.py"
