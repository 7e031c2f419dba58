"""Sources to documents, each with a role: counted, for validation, or for the tokenizer.

Inputs: the sources under `corpora` (installed packages, local files, a hub dataset). Outputs:
results/{run}/tokens/{corpus}/documents.json and roles.bin.
"""


localrules:
    download_corpus,
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
        repository=from_corpus("source.hub"),
        revision=from_corpus("source.revision"),
        patterns=from_corpus("source.patterns"),
        repository_type="dataset",
    script:
        "../workflow_scripts/download.py"


rule sequences:
    output:
        documents="results/{run}/tokens/{corpus}/sequences.jsonl",
    log:
        "results/{run}/logs/sequences/{corpus}.log",
    benchmark:
        "results/{run}/benchmarks/sequences/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(name for name, corpus in CONFIG.corpora.items() if corpus.source.sequences),
    params:
        code=code("corpus.synthetic.integer_sequences"),
        options=from_corpus("source.sequences"),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/sequences.py"


rule families:
    input:
        files=antibody_files,
    output:
        documents="results/{run}/tokens/{corpus}/families.jsonl",
        sidecar="results/{run}/tokens/{corpus}/families.json",
    log:
        "results/{run}/logs/families/{corpus}.log",
    benchmark:
        "results/{run}/benchmarks/families/{corpus}.tsv"
    wildcard_constraints:
        corpus=one_of(name for name, corpus in CONFIG.corpora.items() if corpus.source.antibodies),
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(24 * 60),
    params:
        code=code("corpus.synthetic.antibodies"),
        options=from_corpus("source.antibodies"),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/families.py"


rule documents:
    input:
        files=corpus_files,
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
        code=code("corpus.documents"),
        section=from_corpus(
            exclude={"eot": True, "expected": True, "tokenizer": {"standing": True, "fixed_before": True}}
        ),
        versions=installed_versions,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/documents.py"
