"""Results of the coverage experiment as tables for validity.md, and as a figure."""

from matplotlib.figure import Figure

from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path
from tokenbounds.reports.figures.style import COLOURS, MARKERS, STYLE, plt
from tokenbounds.validation.coverage_common import DELTA, SEED
from tokenbounds.validation.projection import POINTS


def markdown(columns, rows):
    """Format a markdown table; numbers are given as text."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def coverage_text(table, curves, refused):
    """Format the verdicts, a table for each section, and the sentence on refusals.

    Parameters
    ----------
    table, curves : DataFrame
        Of `tokenbounds.validation.coverage.verdicts` and `tokenbounds.validation.coverage.curves`.
    refused : str
    """
    trials, allowed = table["trials"].iloc[0], table["allowed"].iloc[0]
    parts = [f"{trials:,} trials per row, δ = {DELTA}, seed {SEED}. Allowed: {allowed:,} violations."]
    for section, rows in table.groupby("section", sort=False):
        along = curves[curves["section"] == section]
        shown = [f"{kind} {value:,}" for kind, value in along.groupby(["along", "value"], sort=False).groups]
        columns = ["process", "method", *(shown or ["violations", "rate"])]
        columns += ["interval of the last", "expected", "verdict"] if shown else ["expected", "verdict"]
        lines = []
        for row in rows.itertuples():
            numbers = [f"{row.violations:,}", f"{row.rate:.4f}"]
            if shown:
                own = along[(along["process"] == row.process) & (along["method"] == row.method)]
                numbers = [f"{rate:.4f}" for rate in own["rate"]]
                numbers.append(f"{row.rate_low:.4f} to {row.rate_high:.4f}")
            verdict = row.verdict if row.as_expected else f"**{row.verdict}**"
            lines.append([row.process, row.method, *numbers, row.expected, verdict])
        parts.append(f"### {section}\n\n{markdown(columns, lines)}")
    return "\n\n".join([*parts, refused])


TITLES = {
    "paper": "paper, Table 8",
    "azuma": "azuma (fitted to it)",
    "azuma_certified": "azuma_certified",
    "azuma_rigorous": "azuma_rigorous",
    "theorem_a": "Theorem A",
    "betting": "betting, centred",
    "gain": "gain",
}
RANGES = {"theorem_a": "Theorem A", "betting": "betting", "gain": "gain"}


def projection_text(table):
    """Format the projection: the default shape of the synthetic records, and the range over all shapes."""
    lines = []
    for point, rows in table.groupby("point", sort=False):
        values = [f"{rows[name].iloc[0]:.2f}" for name in TITLES]
        ranges = [f"{rows[name].min():.2f} to {rows[name].max():.2f}" for name in RANGES]
        lines.append([point, f"{rows['kappa'].iloc[0]:g}", *values, *ranges])
    shapes = f"over {len(table) // len(POINTS)} shapes"
    titles = [*TITLES.values(), *(f"{title} {shapes}" for title in RANGES.values())]
    return markdown(["point", "κ", *titles], lines)


def fill(text, **blocks):
    """Replace the text between ``<!-- name -->`` and ``<!-- end of name -->`` by each block."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, mark, tail = rest.partition(end)
        if not mark:
            raise InputError(f"validity.md has no '{begin}' ... '{end}'; expected both marks")
        text = f"{head}{begin}\n{block}\n{end}{tail}"
    return text


def draw(table, path):
    """Draw violation rates with 99.9% intervals: bounds that must hold above, those that must fail below."""
    hold, fail = table[table["expected"] != "fails"], table[table["expected"] == "fails"]
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(9, 11), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(hold["process"].nunique(), len(fail)))
        labels = _draw_hold(upper, hold)
        figure.legend(loc="outside upper center", ncols=4)
        for y, row in enumerate(fail.itertuples()):
            lower.plot([row.rate_low, row.rate_high], [y, y], color="k", linewidth=1)
            lower.plot(row.rate, y, "o", color="k", markersize=4)
        lower.set_title("must fail", loc="left")
        lower.set_xscale("log")
        lower.set_xticks([0.05, 0.1, 0.2, 0.5, 1.0], ["0.05", "0.1", "0.2", "0.5", "1"])
        lower.set_xticks([], minor=True)
        lower.set_xlim(0.045, 1.1)
        failing = [f"{row.process}: {row.method}" for row in fail.itertuples()]
        for axes, names in ((upper, labels), (lower, failing)):
            axes.axvline(DELTA, color="#D55E00", linestyle="--", linewidth=1)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_xlabel(f"rate of violations (dashed: δ = {DELTA})")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _draw_hold(axes, hold):
    """Draw the bounds that must hold, a row for each process; returns the processes."""
    families = hold["method"].str.split(",").str[0]
    styles = zip((*COLOURS, "0.3", "0.6", "#7F3C0F"), (*MARKERS, "X", "*", "P"), strict=True)
    looks = dict(zip(families.unique(), styles, strict=False))
    labels, drawn = list(hold["process"].unique()), {}
    for row, family in zip(hold.itertuples(), families, strict=True):
        drawn[row.process] = drawn.get(row.process, 0) + 1
        y, (colour, marker) = labels.index(row.process) + 0.15 * (drawn[row.process] - 2.5), looks[family]
        axes.plot([row.rate_low, row.rate_high], [y, y], color=colour, linewidth=1)
        inside = "white" if row.expected == "no claim" else colour
        axes.plot(row.rate, y, marker, color=colour, markerfacecolor=inside, markersize=4, clip_on=False)
    for family, (colour, marker) in looks.items():
        axes.plot([], [], marker, color=colour, markersize=4, label=family)
    axes.set_title("must hold (open: no claim)", loc="left")
    return labels
