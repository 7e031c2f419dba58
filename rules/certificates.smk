"""Records, message size and index to certificates."""


localrules:
    bound,


rule bound:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        sanity_check=sanity_check_file,
        index="results/{run}/tokens/{corpus}/train/index.json",
        documents="results/{run}/tokens/{corpus}/documents.json",
        roles="results/{run}/tokens/{corpus}/roles.bin",
        tokenizer="results/{run}/tokens/{corpus}/tokenizer",
        records=expand(
            "results/{{run}}/risk/{{model}}.{{codec}}.{{corpus}}.{{sampling}}/{part}.parquet",
            part=CONFIG.parts,
        ),
        sidecars=expand(
            "results/{{run}}/risk/{{model}}.{{codec}}.{{corpus}}.{{sampling}}/{part}.json", part=CONFIG.parts
        ),
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
        code=code("certificates.make", *METHOD_CODE),
        delta=CONFIG.delta,
        bounds=bounds_settings,
        choices_bits=CONFIG.choices_bits(),
        scheme=from_scheme(),
    script:
        "../workflow_scripts/bound.py"
