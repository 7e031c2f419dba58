"""The paper's Table 7: downstream performance beside the resampled objective."""

import math
import warnings

import pandas as pd

from tokenbounds.io.files import read_json, write_text
from tokenbounds.reports.formats import latex, markdown, write_csv

SHORT = {"perplexity": "PPL", "accuracy": "ACC"}
NOTE = (
    "Objective: mean bits of the tokens that {generator} draws anew after contexts of {corpus}, which "
    "approximates the bounded quantity (docs/downstream.md). PPL and ACC are downstream performance, not "
    "bounds: {source}. Means are arithmetic means over the datasets. Last line: Pearson correlation of each "
    "column with the objective, over the {count} models."
)
MEASURED = "measured on {n:,} drawn tokens of each corpus"


def pearson(first, second):
    """Compute Pearson's correlation of two sequences of numbers; NaN where one of them is constant."""
    import scipy.stats  # here: it takes long to load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        return float(scipy.stats.pearsonr(first, second).statistic)


def comparison(evaluations, labels, downstream):
    """Compare downstream performance and objective of the evaluated models.

    Parameters
    ----------
    evaluations : list of dict
        As `tokenbounds.experiments.resampling.evaluate` returns them, each with its ``model``.
    labels : list of str
        Name of each in figure and table.
    downstream : list of dict
        The `downstream` section of the figure: ``label``, ``metric``, and ``corpus`` or ``published``.

    Returns
    -------
    data : DataFrame
        Per model ``label``, ``parameters``, ``objective_bits``, ``objective_standard_error``, ``scored``,
        ``left_out``, a column per dataset and metric (``"{label} PPL"``, ``"{label} ACC"``; measured ones
        with ``... standard error``), ``mean PPL``, ``mean ACC``.
    correlations : dict of str to float
        Pearson's r between the objective and each column of performance.
    """
    keys = ("parameters", "objective_bits", "objective_standard_error", "scored", "left_out")
    pairs = zip(labels, evaluations, strict=True)
    data = pd.DataFrame([{"label": label, **{key: result[key] for key in keys}} for label, result in pairs])
    columns = {"perplexity": [], "accuracy": []}
    for item in downstream:
        metric, column = item["metric"], f"{item['label']} {SHORT[item['metric']]}"
        columns[metric].append(column)
        if "published" in item:
            data[column] = [item["published"][result["model"]] for result in evaluations]
            continue
        measured = [result["downstream"][item["corpus"]] for result in evaluations]
        data[column] = [result[metric] for result in measured]
        data[f"{column} standard error"] = [result[f"{metric}_standard_error"] for result in measured]
    for metric, names in columns.items():
        if names:
            data[f"mean {SHORT[metric]}"] = data[names].mean(axis=1)
            names.append(f"mean {SHORT[metric]}")
    names = [name for names in columns.values() for name in names]
    return data, {name: pearson(data["objective_bits"], data[name]) for name in names}


def write_downstream_table(evaluations, labels, downstream, caption, note, *, csv, md, tex):
    """Write the table: a line per model, and one with the correlations.

    Parameters
    ----------
    evaluations, labels, downstream
        As for `comparison`.
    caption : str
    note : dict
        ``generator``, ``corpus``, ``draws`` and perhaps ``source`` (of published numbers), for the line below
        the table.
    csv, md, tex : path
        Outputs.
    """
    data, correlations = comparison(evaluations, labels, downstream)
    last = pd.DataFrame([{"label": "correlation", **correlations}])
    whole = dict.fromkeys(("parameters", "scored", "left_out"), "Int64")
    write_csv(csv, pd.concat([data, last]).astype(whole))
    rows = [
        {
            "model": line["label"],
            "parameters": f"{line['parameters']:,}",
            **{name: f"{line[name]:.2f}" for name in correlations},
            "objective [bits]": f"{line['objective_bits']:.3f} ± {line['objective_standard_error']:.3f}",
        }
        for line in data.to_dict("records")
    ]
    shown = {
        name: "undefined" if math.isnan(value) else f"{value:+.3f}" for name, value in correlations.items()
    }
    view = pd.DataFrame([*rows, {"model": "correlation", "parameters": "", **shown, "objective [bits]": ""}])
    sources = [MEASURED.format(n=note["draws"])] if any("corpus" in item for item in downstream) else []
    sources += [f"as published by {note['source']}"] if note.get("source") else []
    facts = {"source": ", ".join(sources), "count": len(labels)}
    below = NOTE.format(generator=note["generator"], corpus=note["corpus"], **facts)
    write_text(md, markdown(view, caption) + f"\n{below}\n")
    write_text(tex, latex(view, caption))


def draw(inputs, spec, outputs):
    """Make the table for the workflow (see `tokenbounds.config.schema.figures.DownstreamTable`)."""
    evaluations = read_json(inputs["scores"][0])["models"]
    options = {key: spec[key] for key in ("labels", "downstream", "caption", "note")}
    write_downstream_table(evaluations, **options, **outputs)
