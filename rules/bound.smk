"""Records, message size and index to certificates."""


localrules:
    bound,


rule bound:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        gate=gate_file,
        index="results/{run}/tokens/{corpus}/train/index.json",
        documents="results/{run}/tokens/{corpus}/documents.json",
        tokenizer="results/{run}/tokens/{corpus}/tokenizer",
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        records=expand("results/{{run}}/risk/{{model}}.{{codec}}.{{corpus}}.{{sampling}}/{part}.parquet", part=PARTS),
        sidecars=expand("results/{{run}}/risk/{{model}}.{{codec}}.{{corpus}}.{{sampling}}/{part}.json", part=PARTS),
        # Not bounds/processes: simulations.
        package=package("certificate", "metrics", "records", "hypothesis", "message", "corpus", "bounds/[!p]*"),
    output:
        certificate="results/{run}/bounds/{model}.{codec}.{corpus}.{sampling}.json",
    log:
        "results/{run}/logs/bound/{model}.{codec}.{corpus}.{sampling}.log",
    benchmark:
        "results/{run}/benchmarks/bound/{model}.{codec}.{corpus}.{sampling}.tsv"
    resources:
        mem_mb=2000,
        runtime="30m",
    params:
        delta=CONFIG.delta,
        # Where a row takes the best of several results, they share the draws' part of delta.
        bounds=lambda w: {**slice_of(CONFIG.bounds), "candidates": CONFIG.candidates(f"{w.model}.{w.codec}.{w.corpus}.{w.sampling}")},
        choices_bits=CONFIG.choices_bits(),
    script:
        "../workflow_scripts/bound.py"
