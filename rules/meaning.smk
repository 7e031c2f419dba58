"""What the bound means: next tokens drawn anew in contexts of the corpus, models scored on them and downstream (docs/meaning.md)."""


localrules:
    meaning_table,
    meaning_figure,


rule resample:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        gate=gate_file,
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        index="results/{run}/tokens/{corpus}/train/index.json",
        package=package("resampling", "scoring", "corpus", "published", *DECODING),
    output:
        resampled="results/{run}/resampled/{figure}.{model}.{codec}.{corpus}.{sampling}.parquet",
        sidecar="results/{run}/resampled/{figure}.{model}.{codec}.{corpus}.{sampling}.json",
    log:
        "results/{run}/logs/resample/{figure}.{model}.{codec}.{corpus}.{sampling}.log",
    benchmark:
        "results/{run}/benchmarks/resample/{figure}.{model}.{codec}.{corpus}.{sampling}.tsv"
    wildcard_constraints:
        figure=figures_of("meaning"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(8 * 60),
        gpu=1,
    params:
        draws=lambda w: CONFIG.figures[w.figure].draws,
        tokens=lambda w: CONFIG.figures[w.figure].tokens,
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/resample.py"


# One job for all models of a figure: most of its time at a small size would be starting.
rule score_resampled:
    input:
        messages=of_evaluated(lambda w: f"results/{w.run}/messages/{w.model}.{w.codec}.bin"),
        tokenizers=of_evaluated(lambda w: f"results/{w.run}/tokens/{w.corpus}/tokenizer"),
        files=of_evaluated(zipped_files),
        gates=of_evaluated(gate_file),
        resampled=lambda w: resampled_tokens(w, "parquet"),
        sidecar=lambda w: resampled_tokens(w, "json"),
        index=lambda w: f"{generator_corpus(w)}/train/index.json",
        tokenizer=lambda w: f"{generator_corpus(w)}/tokenizer",
        downstream_draws=downstream_tokens("results/{run}/positions/{corpus}.{sampling}.parquet"),
        downstream_indices=downstream_tokens("results/{run}/tokens/{corpus}/train/index.json"),
        downstream_tokenizers=downstream_tokens("results/{run}/tokens/{corpus}/tokenizer"),
        package=package("resampling", "scoring", "corpus", "tokenize", "published", *DECODING),
    output:
        scores="results/{run}/resampled/{figure}.scores.json",
    log:
        "results/{run}/logs/score_resampled/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/score_resampled/{figure}.tsv"
    wildcard_constraints:
        figure=figures_of("meaning"),
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(8 * 60),
        gpu=1,
    params:
        models=lambda w: [f"{item.model}.{item.codec}" for item in CONFIG.figures[w.figure].evaluated],
        corpora=lambda w: CONFIG.figures[w.figure].corpora,
        sampling=lambda w: CONFIG.scheme_of(CONFIG.figures[w.figure].generator),
        draws=lambda w: CONFIG.figures[w.figure].draws,
        tokens=lambda w: CONFIG.figures[w.figure].tokens,
    script:
        "../workflow_scripts/score_resampled.py"


rule meaning_table:
    input:
        scores=lambda w: f"{RESULTS}/resampled/{MEANING[w.table]}.scores.json",
        package=package("meaning_figure", "tables"),
    output:
        csv="results/{run}/tables/{table}.csv",
        md="results/{run}/tables/{table}.md",
        tex="results/{run}/tables/{table}.tex",
    log:
        "results/{run}/logs/table/{table}.log",
    benchmark:
        "results/{run}/benchmarks/table/{table}.tsv"
    wildcard_constraints:
        table="|".join(MEANING) or "(?!)",
    params:
        labels=lambda w: [item.label for item in CONFIG.figures[MEANING[w.table]].evaluated],
        downstream=lambda w: [slice_of(item) for item in CONFIG.figures[MEANING[w.table]].downstream],
        caption=lambda w: CONFIG.figures[MEANING[w.table]].caption,
        source=lambda w: CONFIG.figures[MEANING[w.table]].source,
        generator=lambda w: CONFIG.figures[MEANING[w.table]].generator.label,
        corpus=lambda w: CONFIG.figures[MEANING[w.table]].generator.corpus,
        draws=lambda w: CONFIG.figures[MEANING[w.table]].draws,
    script:
        "../workflow_scripts/meaning_table.py"


rule meaning_figure:
    input:
        records=entropy_records,
        scores="results/{run}/resampled/{figure}.scores.json",
        package=package("meaning_figure", "figures", "records"),
    output:
        csv="results/{run}/figures/{figure}.csv",
        pdf="results/{run}/figures/{figure}.pdf",
        png="results/{run}/figures/{figure}.png",
    log:
        "results/{run}/logs/figure/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/figure/{figure}.tsv"
    wildcard_constraints:
        figure=figures_of("meaning"),
    params:
        labels=lambda w: [item.label for item in CONFIG.figures[w.figure].evaluated],
        downstream=lambda w: [slice_of(item) for item in CONFIG.figures[w.figure].downstream],
        names=lambda w: [CONFIG.figures[w.figure].entropy.label, CONFIG.figures[w.figure].generator.label],
        head=lambda w: CONFIG.codecs[CONFIG.figures[w.figure].entropy.codec[0]].kind == "alpha_head",
        longest=lambda w: CONFIG.schemes[CONFIG.scheme_of(CONFIG.figures[w.figure].entropy)].context_length,
    script:
        "../workflow_scripts/meaning_figure.py"
