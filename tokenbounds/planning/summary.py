"""Costs of tables and figures, or of rules: sums over the jobs behind them."""

import math

import pandas as pd


def by_output(config, graph, costs):
    """Sum what each table and figure takes, and what all take together.

    Parameters
    ----------
    config : tokenbounds.config.run.Config
    graph : JobGraph
        The jobs of this configuration.
    costs : Costs

    Returns
    -------
    DataFrame
        Columns ``output``, ``jobs``, ``gpu_jobs``, ``gpu_hours``, ``download_gb``, ``results_gb``. Jobs,
        downloads and files that several outputs share count for each; the last line, ``all``, counts them
        once. Missing where a size is not known before the download (key ``expected`` of corpora and published
        models).
    """
    takes = _takes(graph.jobs, costs)
    sets = [(name, graph.needed_for(path)) for name, path in output_paths(config)] + [("all", graph.jobs)]
    return pd.DataFrame([{"output": name, **_sum(jobs, takes)} for name, jobs in sets])


def by_rule(graph, costs):
    """Sum the same by rule, for all outputs together.

    Returns
    -------
    DataFrame
        Columns ``rule``, and as of `by_output`.
    """
    takes = _takes(graph.jobs, costs)
    rules: dict = {}
    for job in graph.jobs:
        rules.setdefault(job.rule, set()).add(job)
    rules.pop("all", None)  # the one job that only asks for the others
    return pd.DataFrame([{"rule": rule, **_sum(rules[rule], takes)} for rule in sorted(rules)])


def output_paths(config):
    """List (name, path) of every table and figure, a figure's own tables just before it."""
    kinds = [(name, "tables") for name in config.tables]
    for name, figure in config.figures.items():
        kinds += [*((table, "tables") for table in figure.tables(name)), (name, "figures")]
    return [(name, f"{config.results}/{kind}/{name}.csv") for name, kind in kinds]


def _takes(jobs, costs):
    """GPU hours, downloaded gigabytes and stored bytes of each job."""
    return {
        job: (costs.gpu_hours(job), costs.download_gigabytes(job), costs.stored_bytes(job)) for job in jobs
    }


def _sum(jobs, takes):
    hours, downloads, stored = zip(*(takes[job] for job in jobs), strict=True)
    return {
        "jobs": len(jobs),
        "gpu_jobs": sum(job.gpus > 0 for job in jobs),
        "gpu_hours": math.fsum(hours),
        "download_gb": math.fsum(downloads),
        "results_gb": math.fsum(stored) / 1e9,
    }
