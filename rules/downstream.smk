"""The bounded quantity and downstream performance (docs/downstream.md).

Next tokens are drawn anew in contexts of the corpus, and models are scored on them and on other corpora.
"""

from types import SimpleNamespace


def of_evaluated(path):
    """Input function: a path of each model that a figure evaluates; `path` takes wildcards run, model, codec and corpus (the model's)."""

    def paths(wildcards):
        for model, codec in CONFIG.figures[wildcards.figure].hypotheses():
            names = {
                "run": wildcards.run,
                "model": model,
                "codec": codec,
                "corpus": CONFIG.models[model].corpus,
            }
            yield path.format(**names) if isinstance(path, str) else path(SimpleNamespace(**names))

    return lambda wildcards: [
        name for found in paths(wildcards) for name in ([found] if isinstance(found, str) else found)
    ]


def of_downstream(path):
    """Input function: a path of each corpus on which a figure measures downstream performance."""
    return lambda wildcards: [
        path.format(run=wildcards.run, corpus=corpus, sampling=generator_scheme(wildcards))
        for corpus in CONFIG.figures[wildcards.figure].corpora
    ]


def of_generator(path):
    """Input function: a path of the generator of a figure, by its certificate's name and its corpus."""

    def paths(wildcards):
        (certificate,) = CONFIG.certificate_names(CONFIG.figures[wildcards.figure].generator)
        corpus = CONFIG.figures[wildcards.figure].generator.corpus
        return path.format(run=wildcards.run, figure=wildcards.figure, certificate=certificate, corpus=corpus)

    return paths


def generator_scheme(wildcards):
    """Name of the sampling scheme of a figure's generator."""
    return CONFIG.scheme_of(CONFIG.figures[wildcards.figure].generator)


def evaluated(wildcards):
    """(model, codec) of each model that a figure evaluates."""
    return CONFIG.figures[wildcards.figure].hypotheses()


def evaluated_names(wildcards):
    """``model.codec`` of each model that a figure evaluates."""
    return [f"{model}.{codec}" for model, codec in evaluated(wildcards)]


DOWNSTREAM = one_of(name for name, figure in CONFIG.figures.items() if figure.hypotheses())


rule resample:
    input:
        message="results/{run}/messages/{model}.{codec}.bin",
        files=zipped_files,
        sanity_check=sanity_check_file,
        draws="results/{run}/positions/{corpus}.{sampling}.parquet",
        index="results/{run}/tokens/{corpus}/train/index.json",
    output:
        resampled="results/{run}/resampled/{figure}.{model}.{codec}.{corpus}.{sampling}.parquet",
        sidecar="results/{run}/resampled/{figure}.{model}.{codec}.{corpus}.{sampling}.json",
    log:
        "results/{run}/logs/resample/{figure}.{model}.{codec}.{corpus}.{sampling}.log",
    benchmark:
        "results/{run}/benchmarks/resample/{figure}.{model}.{codec}.{corpus}.{sampling}.tsv"
    wildcard_constraints:
        figure=DOWNSTREAM,
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(8 * 60),
        gpu=1,
    params:
        code=code("experiments.resampling", hypotheses=own),
        contexts=from_figure("draws"),
        tokens=from_figure("tokens"),
        seed=CONFIG.seed,
    script:
        "../workflow_scripts/resample.py"


# One job for all models of a figure: most of its time at a small size would be starting.
rule score_resampled:
    input:
        messages=of_evaluated("results/{run}/messages/{model}.{codec}.bin"),
        tokenizers=of_evaluated("results/{run}/tokens/{corpus}/tokenizer"),
        files=of_evaluated(zipped_files),
        sanity_checks=of_evaluated(sanity_check_file),
        resampled=of_generator("results/{run}/resampled/{figure}.{certificate}.parquet"),
        sidecar=of_generator("results/{run}/resampled/{figure}.{certificate}.json"),
        index=of_generator("results/{run}/tokens/{corpus}/train/index.json"),
        tokenizer=of_generator("results/{run}/tokens/{corpus}/tokenizer"),
        downstream_draws=of_downstream("results/{run}/positions/{corpus}.{sampling}.parquet"),
        downstream_indices=of_downstream("results/{run}/tokens/{corpus}/train/index.json"),
        downstream_tokenizers=of_downstream("results/{run}/tokens/{corpus}/tokenizer"),
    output:
        scores="results/{run}/resampled/{figure}.scores.json",
    log:
        "results/{run}/logs/score_resampled/{figure}.log",
    benchmark:
        "results/{run}/benchmarks/score_resampled/{figure}.tsv"
    wildcard_constraints:
        figure=DOWNSTREAM,
    threads: CONFIG.scoring.threads
    resources:
        mem_mb=scaled(16000),
        runtime=scaled(8 * 60),
        gpu=1,
    params:
        code=code("experiments.downstream", hypotheses=evaluated),
        models=evaluated_names,
        corpora=from_figure("corpora"),
        sampling=generator_scheme,
        contexts=from_figure("draws"),
        tokens=from_figure("tokens"),
    script:
        "../workflow_scripts/score_resampled.py"
