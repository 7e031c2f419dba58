"""Text to token shards, an index and drawn positions.

Inputs: the sources under `corpora` (installed packages, local files, a hub dataset). Outputs: results/{run}/tokens/{corpus}/ and
results/{run}/positions/.
"""


localrules:
    download_corpus,
    download_tokenizer,
    positions,
    sequences,


rule download_corpus:
    output:
        manifest="resources/corpora/{corpus}/download.json",
    log:
        "resources/logs/download_corpus/{corpus}.log",
    benchmark:
        "resources/benchmarks/download_corpus/{corpus}.tsv"
    retries: 3
    params:
        repository=lambda w: CONFIG.corpora[w.corpus].source.hub,
        revision=lambda w: CONFIG.corpora[w.corpus].source.revision,
        patterns=lambda w: CONFIG.corpora[w.corpus].source.patterns,
        repository_type="dataset",
    script:
        "../workflow_scripts/download.py"


rule download_tokenizer:
    output:
        manifest="resources/tokenizers/{corpus}/download.json",
    log:
        "resources/logs/download_tokenizer/{corpus}.log",
    benchmark:
        "resources/benchmarks/download_tokenizer/{corpus}.tsv"
    retries: 3
    params:
        repository=lambda w: CONFIG.corpora[w.corpus].tokenizer.hub,
        revision=lambda w: CONFIG.corpora[w.corpus].tokenizer.revision,
        patterns=["tokenizer.json", "tokenizer.model"],
        repository_type="model",
    script:
        "../workflow_scripts/download.py"


rule sequences:
    input:
        package=package("sequences", "streams"),
    output:
        documents="results/{run}/tokens/{corpus}/sequences.jsonl",
    log:
        "results/{run}/logs/sequences/{corpus}.log",
    benchmark:
        "results/{run}/benchmarks/sequences/{corpus}.tsv"
    wildcard_constraints:
        corpus=corpora_of("sequences"),
    params:
        options=lambda w: slice_of(CONFIG.corpora[w.corpus].source.sequences),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/sequences.py"


rule families:
    input:
        files=antibody_files,
        package=package("antibodies", "repertoire", "streams"),
    output:
        documents="results/{run}/tokens/{corpus}/families.jsonl",
        sidecar="results/{run}/tokens/{corpus}/families.json",
    log:
        "results/{run}/logs/families/{corpus}.log",
    benchmark:
        "results/{run}/benchmarks/families/{corpus}.tsv"
    wildcard_constraints:
        corpus=corpora_of("antibodies"),
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(24 * 60),
    params:
        options=lambda w: slice_of(CONFIG.corpora[w.corpus].source.antibodies),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/families.py"


rule documents:
    input:
        files=corpus_files,
        package=package("sources", "corpus", "streams"),
    output:
        manifest="results/{run}/tokens/{corpus}/documents.json",
        roles="results/{run}/tokens/{corpus}/roles.bin",
    log:
        "results/{run}/logs/documents/{corpus}.log",
    benchmark:
        "results/{run}/benchmarks/documents/{corpus}.tsv"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(4 * 60),
    params:
        corpus=lambda w: slice_of(CONFIG.corpora[w.corpus], exclude={"eot", "expected"}),
        versions=installed_versions,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/documents.py"


rule tokenizer:
    input:
        files=tokenizer_files,
        manifest="results/{run}/tokens/{corpus}/documents.json",
        roles="results/{run}/tokens/{corpus}/roles.bin",
        package=package("sources", "corpus", "tokenize"),
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
        corpus=lambda w: slice_of(CONFIG.corpora[w.corpus], include={"tokenizer", "eot", "source", "empty_documents"}),
    script:
        "../workflow_scripts/tokenizer.py"


rule tokenize:
    input:
        manifest="results/{run}/tokens/{corpus}/documents.json",
        roles="results/{run}/tokens/{corpus}/roles.bin",
        tokenizer="results/{run}/tokens/{corpus}/tokenizer",
        package=package("sources", "corpus", "tokenize"),
    output:
        multiext("results/{run}/tokens/{corpus}/train/{shard}", tokens=".bin", ends=".ends.bin", sidecar=".json"),
        multiext("results/{run}/tokens/{corpus}/val/{shard}", val_tokens=".bin", val_ends=".ends.bin", val_sidecar=".json"),
    log:
        "results/{run}/logs/tokenize/{corpus}.{shard}.log",
    benchmark:
        "results/{run}/benchmarks/tokenize/{corpus}.{shard}.tsv"
    threads: 2
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(12 * 60),
    params:
        corpus=lambda w: slice_of(CONFIG.corpora[w.corpus], include={"tokenizer", "eot", "source", "empty_documents"}),
    script:
        "../workflow_scripts/tokenize_shard.py"


rule index:
    input:
        tokens=lambda w: expand("results/{run}/tokens/{corpus}/{split}/{shard}.bin", **w, shard=shards(w.corpus)),
        ends=lambda w: expand("results/{run}/tokens/{corpus}/{split}/{shard}.ends.bin", **w, shard=shards(w.corpus)),
        sidecars=lambda w: expand("results/{run}/tokens/{corpus}/{split}/{shard}.json", **w, shard=shards(w.corpus)),
        package=package("corpus"),
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
    script:
        "../workflow_scripts/index.py"


rule positions:
    input:
        index="results/{run}/tokens/{corpus}/train/index.json",
        ends="results/{run}/tokens/{corpus}/train/ends.bin",
        package=package("corpus", "streams"),
    output:
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        sidecar="results/{run}/positions/{corpus}.{sampling}.json",
    log:
        "results/{run}/logs/positions/{corpus}.{sampling}.log",
    benchmark:
        "results/{run}/benchmarks/positions/{corpus}.{sampling}.tsv"
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        sampling=lambda w: slice_of(CONFIG.schemes[w.sampling], include={"mode", "n", "window"}),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/positions.py"
