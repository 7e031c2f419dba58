"""Documents with roles to a tokenizer, token shards and an index.

Outputs: results/{run}/tokens/{corpus}/.
"""


localrules:
    download_tokenizer,


rule download_tokenizer:
    output:
        manifest="resources/tokenizers/{corpus}/download.json",
    log:
        "resources/logs/download_tokenizer/{corpus}.log",
    benchmark:
        "resources/benchmarks/download_tokenizer/{corpus}.tsv"
    retries: 3
    params:
        repository=from_corpus("tokenizer.hub"),
        revision=from_corpus("tokenizer.revision"),
        patterns=["tokenizer.json", "tokenizer.model"],
        repository_type="model",
    script:
        "../workflow_scripts/download.py"


rule tokenizer:
    input:
        files=tokenizer_files,
        manifest="results/{run}/tokens/{corpus}/documents.json",
        roles="results/{run}/tokens/{corpus}/roles.bin",
    output:
        folder=directory("results/{run}/tokens/{corpus}/tokenizer"),
    log:
        "results/{run}/logs/tokenizer/{corpus}.log",
    benchmark:
        "results/{run}/benchmarks/tokenizer/{corpus}.tsv"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(4 * 60),
    params:
        code=code("corpus.tokenizers"),
        section=from_corpus(include={"tokenizer", "eot", "source", "empty_documents"}),
    script:
        "../workflow_scripts/tokenizer.py"


rule tokenize:
    input:
        manifest="results/{run}/tokens/{corpus}/documents.json",
        roles="results/{run}/tokens/{corpus}/roles.bin",
        tokenizer="results/{run}/tokens/{corpus}/tokenizer",
    output:
        multiext(
            "results/{run}/tokens/{corpus}/train/{shard}", tokens=".bin", ends=".ends.bin", sidecar=".json"
        ),
        multiext(
            "results/{run}/tokens/{corpus}/val/{shard}",
            val_tokens=".bin",
            val_ends=".ends.bin",
            val_sidecar=".json",
        ),
    log:
        "results/{run}/logs/tokenize/{corpus}.{shard}.log",
    benchmark:
        "results/{run}/benchmarks/tokenize/{corpus}.{shard}.tsv"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(12 * 60),
    params:
        code=code("corpus.shards"),
        section=from_corpus(include={"tokenizer", "eot", "source", "empty_documents"}),
    script:
        "../workflow_scripts/tokenize_shard.py"


rule index:
    input:
        tokens=of_shards("bin"),
        ends=of_shards("ends.bin"),
        sidecars=of_shards("json"),
    output:
        index="results/{run}/tokens/{corpus}/{split}/index.json",
        ends="results/{run}/tokens/{corpus}/{split}/ends.bin",
    log:
        "results/{run}/logs/index/{corpus}.{split}.log",
    benchmark:
        "results/{run}/benchmarks/index/{corpus}.{split}.tsv"
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(4 * 60),
    params:
        code=code("corpus.indexing"),
        context_length=64,  # of no scheme: a change of one must not index, and train, anew
    script:
        "../workflow_scripts/index.py"
