"""Certificates to the paper's tables and figures."""


localrules:
    table,
    figure,
    smoothing_figure,
    recall_figure,


rule table:
    input:
        certificates=lambda w: certificates(CONFIG.tables[w.table].rows),
        models=lambda w: trained_models(CONFIG.tables[w.table].rows) if CONFIG.tables[w.table].validation_loss else [],
        package=package("tables"),
    output:
        csv="results/{run}/tables/{table}.csv",
        md="results/{run}/tables/{table}.md",
        tex="results/{run}/tables/{table}.tex",
    log:
        "results/{run}/logs/table/{table}.log",
    benchmark:
        "results/{run}/benchmarks/table/{table}.tsv"
    wildcard_constraints:
        table=tables_of(text=False),
    params:
        caption=lambda w: CONFIG.tables[w.table].caption,
        labels=lambda w: [row.label for row in CONFIG.tables[w.table].rows],
        counts=lambda w: [len(CONFIG.certificate_names(row)) for row in CONFIG.tables[w.table].rows],
        top_k=lambda w: CONFIG.tables[w.table].top_k,
    script:
        "../workflow_scripts/table.py"


rule text_table:
    input:
        certificates=lambda w: certificates(CONFIG.tables[w.table].rows),
        messages=lambda w: messages(CONFIG.tables[w.table].rows),
        tokenizers=lambda w: [
            f"{RESULTS}/tokens/{corpus}/tokenizer" for corpus in dict.fromkeys(row.corpus for row in CONFIG.tables[w.table].rows)
        ],
        package=package("generation", "tables", "scoring", "tokenize", "published", *DECODING),
    output:
        csv="results/{run}/tables/{table}.csv",
        md="results/{run}/tables/{table}.md",
        tex="results/{run}/tables/{table}.tex",
    log:
        "results/{run}/logs/table/{table}.log",
    benchmark:
        "results/{run}/benchmarks/table/{table}.tsv"
    wildcard_constraints:
        table=tables_of(text=True),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(2 * 60),
    params:
        caption=lambda w: CONFIG.tables[w.table].caption,
        labels=lambda w: [row.label for row in CONFIG.tables[w.table].rows],
        counts=lambda w: [len(CONFIG.certificate_names(row)) for row in CONFIG.tables[w.table].rows],
        top_k=lambda w: CONFIG.tables[w.table].top_k,
        samples=lambda w: slice_of(CONFIG.tables[w.table].samples),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/generate.py"


rule figure:
    input:
        certificates=lambda w: certificates(row for _, row in CONFIG.figures[w.figure].rows()),
        models=lambda w: [f"{RESULTS}/models/{model}/config.json" for _, model in CONFIG.figures[w.figure].models()],
        package=package("figures", "tables"),
    output:
        csv="results/{run}/figures/{figure}.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    log:
        "results/{run}/logs/figure/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/figure/{figure}.tsv"
    wildcard_constraints:
        figure=figures_of("size", "parameters"),
    params:
        kind=lambda w: CONFIG.figures[w.figure].kind,
        labels=lambda w: CONFIG.figures[w.figure].labels(),
        counts=lambda w: [len(CONFIG.certificate_names(row)) for _, row in CONFIG.figures[w.figure].rows()],
    script:
        "../workflow_scripts/figure.py"


rule smoothing_figure:
    input:
        heads=lambda w: certificates(CONFIG.figures[w.figure].heads),
        bases=lambda w: certificates(map(CONFIG.without_head, CONFIG.figures[w.figure].heads)),
        models=lambda w: [f"{RESULTS}/models/{model}/config.json" for _, model in CONFIG.figures[w.figure].models()],
        package=package("figures", "smoothing_figure", "metrics", "records", "bounds/[!p]*"),
    output:
        csv="results/{run}/figures/{figure}.csv",
        alpha="results/{run}/figures/{figure}.alpha.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    log:
        "results/{run}/logs/figure/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/figure/{figure}.tsv"
    wildcard_constraints:
        figure=figures_of("smoothing"),
    params:
        labels=lambda w: [row.label for row in CONFIG.figures[w.figure].heads],
        methods=lambda w: [CONFIG.codecs[codec].objective for row in CONFIG.figures[w.figure].heads for codec in row.codec],
    script:
        "../workflow_scripts/smoothing_figure.py"


rule recall:
    input:
        weights="results/{run}/models/{model}/model.safetensors",
        config="results/{run}/models/{model}/config.json",
        index=training_tokens,
        tokenizer=lambda w: f"results/{w.run}/tokens/{CONFIG.models[w.model].corpus}/tokenizer",
        package=package("recall", "sequences", "scoring", "corpus", "quantize", *DECODING),
    output:
        recall="results/{run}/recall/{figure}.{model}.csv",
        sidecar="results/{run}/recall/{figure}.{model}.json",
    log:
        "results/{run}/logs/recall/{figure}.{model}.log",
    benchmark:
        "results/{run}/benchmarks/recall/{figure}.{model}.tsv"
    wildcard_constraints:
        figure=figures_of("recall"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(4 * 60),
        gpu=1,
    params:
        levels=lambda w: CONFIG.figures[w.figure].levels,
        method=lambda w: CONFIG.figures[w.figure].method,
    script:
        "../workflow_scripts/recall.py"


rule recall_figure:
    input:
        recalls=lambda w: [f"{RESULTS}/recall/{w.figure}.{model}.csv" for _, model in CONFIG.figures[w.figure].models()],
        package=package("figures", "recall_figure"),
    output:
        csv="results/{run}/figures/{figure}.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    log:
        "results/{run}/logs/figure/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/figure/{figure}.tsv"
    wildcard_constraints:
        figure=figures_of("recall"),
    params:
        labels=lambda w: CONFIG.figures[w.figure].labels(),
    script:
        "../workflow_scripts/recall_figure.py"
