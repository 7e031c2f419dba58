"""Formats of tables: csv, markdown and LaTeX."""

from tokenbounds.io.files import atomic_path


def write_csv(path, data, **options):
    """Write a DataFrame as csv, atomically; `options` as for `pandas.DataFrame.to_csv`."""
    with atomic_path(path) as temporary:
        data.to_csv(temporary, index=False, **options)


def markdown(view, caption):
    """Format a markdown table, columns aligned so that it also reads well in a terminal."""
    rows = [list(view.columns), *view.to_numpy().tolist()]
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(cells)} |"

    rule = "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths))
    lines = [line(rows[0]), f"|{rule}|", *map(line, rows[1:]), ""]
    return "\n".join([caption, "", *lines] if caption else lines)


LATEX = str.maketrans(
    {character: rf"\{character}" for character in "%&_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def latex(view, caption):
    """Format a LaTeX table (booktabs)."""
    body = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in view.to_numpy().tolist()]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption.translate(LATEX)}}}",
            rf"\begin{{tabular}}{{l{'r' * (view.shape[1] - 1)}}}",
            r"\toprule",
            " & ".join(name.translate(LATEX) for name in view.columns) + r" \\",
            r"\midrule",
            *body[:-1],
            r"\midrule",
            body[-1],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
