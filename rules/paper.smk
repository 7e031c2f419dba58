"""Certificates to the paper's tables and figures."""


localrules:
    table,
    figure,
    smoothing_figure,


rule table:
    input:
        certificates=lambda w: certificates(CONFIG.tables[w.table].rows),
        package=package("tables"),
    output:
        csv="results/{run}/tables/{table}.csv",
        md="results/{run}/tables/{table}.md",
        tex="results/{run}/tables/{table}.tex",
    log:
        "results/{run}/logs/table/{table}.log",
    benchmark:
        "results/{run}/benchmarks/table/{table}.tsv"
    params:
        caption=lambda w: CONFIG.tables[w.table].caption,
        labels=lambda w: [row.label for row in CONFIG.tables[w.table].rows],
        counts=lambda w: [len(CONFIG.certificate_names(row)) for row in CONFIG.tables[w.table].rows],
        top_k=lambda w: CONFIG.tables[w.table].top_k,
    script:
        "../workflow_scripts/table.py"


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
