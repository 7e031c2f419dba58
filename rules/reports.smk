"""Certificates, records and measurements to the paper's tables and figures.

A table or figure knows its files (`inputs`), all else that decides what it shows (`spec`) and the function
that makes it (`implementation`); see tokenbounds/config/schema/reports.py and figures.py.
"""


localrules:
    table,
    figure,
    smoothing_figure,


rule table:
    input:
        unpack(table_inputs),
    output:
        csv="results/{run}/tables/{table}.csv",
        md="results/{run}/tables/{table}.md",
        tex="results/{run}/tables/{table}.tex",
    log:
        "results/{run}/logs/table/{table}.log",
    benchmark:
        "results/{run}/benchmarks/table/{table}.tsv"
    wildcard_constraints:
        table=one_of(name for name, table in CONFIG.every_table.items() if not table.samples),
    params:
        code=table_code,
        draw=table_maker,
        spec=table_spec,
    script:
        "../workflow_scripts/report.py"


use rule table as text_table with:
    wildcard_constraints:
        table=one_of(name for name, table in CONFIG.every_table.items() if table.samples),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(2 * 60),


rule figure:
    input:
        unpack(figure_inputs),
    output:
        csv="results/{run}/figures/{figure}.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    log:
        "results/{run}/logs/figure/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/figure/{figure}.tsv"
    wildcard_constraints:
        figure=made_by(CONFIG.figures, "figure"),
    params:
        code=figure_code,
        draw=from_figure("implementation"),
        spec=figure_spec,
    script:
        "../workflow_scripts/report.py"


use rule figure as smoothing_figure with:
    output:
        csv="results/{run}/figures/{figure}.csv",
        alpha="results/{run}/figures/{figure}.alpha.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    wildcard_constraints:
        figure=made_by(CONFIG.figures, "smoothing_figure"),
