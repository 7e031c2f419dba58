"""Figure of the coverage scenarios that go along a number: of attempts, or the largest m."""

from matplotlib.figure import Figure

from tokenbounds.io.files import atomic_path
from tokenbounds.reports.figures.style import COLOURS, MARKERS, STYLE, log_axis, plt
from tokenbounds.validation.coverage_common import DELTA

COLUMNS = ("section", "process", "method", "along", "value", "trials")
COLUMNS += ("violations", "rate", "rate_low", "rate_high")
LEAST = 1e-4  # no violation is drawn here
X_LABELS = {"k": "certificates computed, k", "m ≤": "largest m that may be chosen"}


def draw_curves(table, path):
    """Draw rates of violations with 99.9% intervals along the number of attempts and the largest m.

    A panel for each group of processes whose names agree up to the first comma; within it a colour for each
    method, and an open marker on a broken line for draws that are the message's own.
    """
    if table.empty:
        return
    groups = table["process"].str.split(",").str[0]
    names = list(groups.unique())
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2 * -(-len(names) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(names) // 2), 2, squeeze=False).ravel()
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(panels, names, strict=False):
            _draw_panel(axes, table[groups == name])
            sections = table.loc[groups == name, "section"].unique()
            alone = groups[table["section"].isin(sections)].nunique() == 1
            axes.set_title(sections[0] if alone else name, loc="left")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _draw_panel(axes, rows):
    """Draw the curves of one group of processes."""
    looks = dict(zip(rows["method"].unique(), zip(COLOURS, MARKERS, strict=True), strict=False))
    for (process, method), curve in rows.groupby(["process", "method"], sort=False):
        (colour, marker), own = looks[method], "draws of the message" in process
        # What draws the same line twice is moved apart a little.
        value, rate = curve["value"] * (1.03 if own else 0.97), curve["rate"].clip(lower=LEAST)
        ends = curve["rate_low"].clip(lower=LEAST), curve["rate_high"]
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1}
        style |= {"linestyle": "--", "markerfacecolor": "white"} if own else {}
        axes.plot(value, rate, **style)
        axes.vlines(value, *ends, color=colour, linewidth=1)
    for method, (colour, marker) in looks.items():
        axes.plot([], [], color=colour, marker=marker, markersize=4, linewidth=1, label=method)
    if rows["process"].nunique() > 1:
        axes.plot([], [], "-", color="0.4", linewidth=1, label="shared draws (filled)")
        axes.plot([], [], "--", color="0.4", linewidth=1, label="draws of the message (open)")
    axes.axhline(DELTA, color="k", linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(LEAST, 1.3)
    axes.set_xlabel(X_LABELS.get(rows["along"].iloc[0], rows["along"].iloc[0]))
    axes.set_ylabel(f"rate of violations (dotted: δ = {DELTA})")
    log_axis(axes)
    axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
