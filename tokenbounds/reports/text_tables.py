"""Tables of generated text beside the bounds of the models that generated it."""

import csv as csv_format
import re
import textwrap
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from tokenbounds.bounds.methods import HEADLINE, REFERENCE
from tokenbounds.certificates.describe import units
from tokenbounds.certificates.files import read_certificate
from tokenbounds.experiments.generation import samples_of
from tokenbounds.io.files import write_text
from tokenbounds.reports.formats import LATEX, markdown, write_csv
from tokenbounds.reports.rows import best_of
from tokenbounds.reports.tables import frame, notes, shown

_MARKDOWN_COLUMNS, _LATEX_COLUMNS = 100, 60
_SAMPLED = (
    "The text is drawn from the model's own predictions, {decoding}, without the smoothing that the bounds "
    "are about. It illustrates a model; no bound is about it."
)


def write_text_table(run, certificates, labels, top_k, caption, options, seed, *, csv, md, tex, methods=()):
    """Generate text with the hypotheses of some certificates and write it beside their bounds.

    The csv has a line per sample, with every number of the certificate and the text as it is; markdown and
    LaTeX show characters that cannot be printed as escapes (LaTeX non-ASCII characters as boxes), and break
    long lines.

    Parameters
    ----------
    run : path
        Folder of the run.
    certificates, labels, top_k
        As for `tokenbounds.reports.tables.frame`.
    caption : str
    options : dict
        ``prompts``, ``tokens``, ``temperature``, ``count`` and perhaps ``top_k`` (see `samples_of`).
    seed : int
        The run's seed.
    csv, md, tex : path
    methods : sequence of str
        Further methods to show.
    """
    data = frame(certificates, labels, top_k)
    progress = tqdm(certificates, desc="generate", unit="row", disable=None)
    generated = [samples_of(run, certificate, seed, **options) for certificate in progress]
    lines = [{"row": row, **sample} for row, samples in enumerate(generated) for sample in samples]
    types = {"sample": "Int64", "tokens": "Int64", "ended": "boolean"}
    table = data.join(pd.DataFrame(lines).set_index("row").astype(types))
    # All text in quotes: else a carriage return alone would end a line.
    write_csv(csv, table, quoting=csv_format.QUOTE_NONNUMERIC)
    rows = list(zip(labels, certificates, generated, strict=True))
    texts = "".join(_markdown_row(label, certificate, samples) for label, certificate, samples in rows)
    below = f"{_SAMPLED.format(decoding=_decoding(options))}\n\n{notes(data, methods)}"
    write_text(md, f"{markdown(shown(data, top_k, methods), caption)}\n{below}\n{texts}")
    write_text(tex, _latex_table(rows, caption))


def _decoding(options):
    if options["temperature"] == 0:
        return "always the most probable token"
    among = f" among the {options['top_k']} most probable tokens" if options.get("top_k") else ""
    return f"at temperature {options['temperature']:g}{among}"


def _bound(certificate):
    bounds = certificate["metrics"]["bpd"]["bounds"]
    level = "document" if units(certificate) == "documents" else "token"
    value, formula = (bounds[method.name]["value"] for method in (HEADLINE, REFERENCE))
    return f"{level}-level BPD bound: {value:.2f}; by the paper's formula: {formula:.2f}"


def visible(text):
    """Replace tabs by spaces, and every character that cannot be printed, except newlines, by its escape."""

    def shown_as(character):
        printable = character == "\n" or character.isprintable()
        return character if printable else character.encode("unicode_escape").decode()

    return "".join(map(shown_as, text.expandtabs(4)))


def wrapped(text, columns):
    """Split `text` into lines of at most `columns`, at spaces where possible; indentation is kept."""
    options = {"expand_tabs": False, "replace_whitespace": False, "break_on_hyphens": False}
    return [part for line in text.split("\n") for part in textwrap.wrap(line, columns, **options) or [""]]


def _fence(text, least):
    """Make a fence of at least `least` backticks, more than any run of them in `text`."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def _markdown_row(label, certificate, samples):
    parts = [f"\n## {label} ({_bound(certificate)})\n"]
    for sample in samples:
        prompt = visible(sample["prompt"]).replace("\n", r"\n")
        text = "\n".join(wrapped(visible(sample["text"]), _MARKDOWN_COLUMNS))
        tick = _fence(prompt, 1)
        start = f"After the prompt {tick} {prompt} {tick}" if prompt else "From the start of a document"
        end = "the model ended the document" if sample["ended"] else "cut off"
        fence = _fence(text, 3)
        parts.append(f"\n{start}, {sample['tokens']} tokens, {end}:\n\n{fence}text\n{text}\n{fence}\n")
    return "".join(parts)


# As boxes in LaTeX, like everything else beyond ASCII, these would make English prose hard to read.
_TYPOGRAPHY = {
    "\u2018": r"\textquoteleft{}",
    "\u2019": r"\textquoteright{}",
    "\u201c": r"\textquotedblleft{}",
    "\u201d": r"\textquotedblright{}",
    "\u2013": r"\textendash{}",
    "\u2014": r"\textemdash{}",
    "\u2026": r"\textellipsis{}",
}
# Fonts and packages would change these: ligatures, curly quotes, active characters.
_LITERAL = {
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"{\char34}",
    "-": "-{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
_BOX, _SPACE = "\x01", "\0"  # `visible` text holds neither
_LATEX_TEXT = str.maketrans(_TYPOGRAPHY | _LITERAL | {_BOX: r"\rule{0.4em}{1ex}"})


def _ascii(text):
    """Put `_BOX` for every character that some LaTeX engine or font cannot print."""
    return "".join(c if c.isascii() or c in _TYPOGRAPHY else _BOX for c in text)


def _latex_line(line):
    """Format a line of typewriter text; an empty box at its start keeps its indentation in LaTeX."""
    # LaTeX keeps one of several spaces; the first between words stays breakable.
    spaced = re.sub(r"^ +|(?<= ) +", lambda spaces: _SPACE * len(spaces[0]), line)
    return r"\mbox{}" + spaced.translate(LATEX | _LATEX_TEXT).replace(_SPACE, "~")


def _latex_table(rows, caption):
    """Format a LaTeX table (booktabs, longtable), as the text of a row may fill a page."""
    body = []
    for label, certificate, samples in rows:
        first = f"{label.translate(LATEX)} ({_bound(certificate).translate(LATEX)})"
        for sample in samples:
            lines = wrapped(_ascii(visible(sample["text"])), _LATEX_COLUMNS)
            text = "\\newline\n".join(map(_latex_line, lines))
            body.append(f"{first} & \\ttfamily\\footnotesize\n{text} \\\\\n\\midrule")
            first = ""
    body[-1] = body[-1].removesuffix(r"\midrule") + r"\bottomrule"
    return "\n".join(
        [
            r"\begin{longtable}{p{0.2\linewidth}p{0.74\linewidth}}",
            rf"\caption{{{caption.translate(LATEX)}}} \\",
            r"\toprule",
            r"Model & Generated text \\",
            r"\midrule",
            r"\endhead",
            *body,
            r"\end{longtable}",
            "",
        ]
    )


def draw(inputs, spec, outputs):
    """Generate text with the best hypothesis of each row, for the workflow, and make the table."""
    torch.set_num_threads(spec["threads"])
    run = Path(inputs["certificates"][0]).parent.parent
    chosen = best_of([read_certificate(path) for path in inputs["certificates"]], spec["counts"])
    options = {
        "options": spec["samples"],
        **{key: spec[key] for key in ("top_k", "caption", "seed", "methods")},
    }
    write_text_table(run, chosen, spec["labels"], **options, **outputs)
