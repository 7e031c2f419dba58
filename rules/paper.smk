"""Certificates to the paper's tables and figures."""


localrules:
    table,
    figure,


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
        top_k=lambda w: CONFIG.tables[w.table].top_k,
    script:
        "../workflow_scripts/table.py"


rule figure:
    input:
        certificates=lambda w: certificates(row for rows in CONFIG.figures[w.figure].series.values() for row in rows),
        package=package("figures"),
    output:
        csv="results/{run}/figures/{figure}.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    log:
        "results/{run}/logs/figure/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/figure/{figure}.tsv"
    params:
        series=lambda w: [(label, row.label) for label, rows in CONFIG.figures[w.figure].series.items() for row in rows],
    script:
        "../workflow_scripts/figure.py"
