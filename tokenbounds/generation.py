"""Text that decoded hypotheses generate, and a table of it beside their bounds (paper, 6.2 and Table 9).

Text is drawn from the model's own predictions q, each given what the hypothesis lets a prediction see. The smoothing that a bound is about
(a constant α, or that of a head) is not applied: it would put a random token into the text every so often.
"""

import csv as csv_format
import dataclasses
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from tokenbounds.certificate import units
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, sha256_file, write_text
from tokenbounds.hypothesis import context_rule, read_model
from tokenbounds.scoring import with_start
from tokenbounds.streams import generator
from tokenbounds.tables import LATEX, NOTES, frame, markdown, shown
from tokenbounds.tokenize import load_tokenizer

_MARKDOWN_COLUMNS, _LATEX_COLUMNS = 100, 60
_SAMPLED = (
    "The text is drawn from the model's own predictions, {how}, without the smoothing that the bounds are about. It illustrates a model; "
    "no bound is about it."
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A generated continuation.

    Attributes
    ----------
    ids : ndarray of int64, shape (T,)
        The new tokens, without the prompt and without EOT.
    ended : bool
        Whether the model ended the document (predicted EOT); else it was cut off.
    """

    ids: np.ndarray
    ended: bool


def distribution(logits, temperature=1.0, top_k=None):
    """Probabilities that the next token is drawn with.

    Parameters
    ----------
    logits : ndarray of float64, shape (V,)
        Finite.
    temperature : float
        At least 0; the logits are divided by it. 0 is its limit: the most probable token, the first of several.
    top_k : int, optional
        Keep the k most probable tokens only, and whatever ties with the last of them.

    Returns
    -------
    ndarray of float64, shape (V,)
    """
    shifted = logits - logits.max()
    if temperature == 0:
        return (np.arange(shifted.size) == shifted.argmax()).astype(np.float64)
    kept = shifted >= (np.partition(shifted, -top_k)[-top_k] if top_k and top_k < shifted.size else -np.inf)
    with np.errstate(over="ignore"):  # a small temperature makes -inf of what is improbable
        weights = np.where(kept, np.exp(shifted / temperature), 0.0)
    return weights / weights.sum()


@torch.inference_mode()
def generate(model, rule, rng, *, tokens, prompt=(), temperature=1.0, top_k=None, name="model"):
    """Continue a document, token by token, until the model ends it.

    Each prediction sees at most the last ``rule.length`` tokens of the document, and the start token where `rule` puts it, as scored single
    tokens do (docs/theory.md, section 1). A hypothesis that is scored on windows sees between one token and as many there; here always as
    many as there are.

    Parameters
    ----------
    model : torch.nn.Module
        With ``hidden(ids (1, T)) -> (1, T, W)`` and ``head(hidden) -> float32 logits (..., V)``, in evaluation mode, on the CPU.
    rule : tokenbounds.scoring.ContextRule
        Its `start_id` is the EOT.
    rng : numpy.random.Generator
        One number is used per token.
    tokens : int
        Most tokens to add.
    prompt : array_like of int
        Tokens that the document begins with; none: it is generated from the start token on.
    temperature, top_k
        As for `distribution`.
    name : str
        For errors.

    Returns
    -------
    Sample

    Raises
    ------
    InputError
        A logit is not finite.
    """
    ids, given = np.array(prompt, dtype=np.int64), len(prompt)
    for _ in range(tokens):
        begin = max(0, ids.size - rule.length)
        context = with_start(ids[begin:], begin == 0, rule)
        logits = model.head(model.hidden(torch.from_numpy(context[None]))[0, -1]).double().numpy()
        if not np.isfinite(logits).all():
            raise InputError(f"{name}: the prediction for token {ids.size} of a generated text is not finite")
        token = rng.choice(logits.size, p=distribution(logits, temperature, top_k))
        if token == rule.start_id:
            return Sample(ids[given:], True)
        ids = np.append(ids, token)
    return Sample(ids[given:], False)


def samples_of(run, certificate, seed, *, prompts, tokens, temperature, count, top_k=None):
    """Text of the hypothesis that a certificate is about, decoded from its message.

    Parameters
    ----------
    run : path
        Folder of the run: of the message and the tokenizer.
    certificate : dict
        As `tokenbounds.certificate.read` returns it.
    seed : int
        The run's seed; each sample has the stream "generate", certificate, number of the prompt, number of the sample.
    prompts : list of str
        What texts begin with; an empty one: from the start token.
    tokens, temperature, top_k
        As for `generate`.
    count : int
        Samples per prompt.

    Returns
    -------
    list of dict
        ``prompt``, ``sample`` (from 1), ``tokens`` (without the prompt's), ``ended``, ``text`` (with the prompt).

    Raises
    ------
    InputError
        The message is not the one that the certificate is about, or as for `generate`.
    """
    entry, sampling, corpus = certificate["hypothesis"]["message"], certificate["sampling"]["name"], certificate["corpus"]["name"]
    path = Path(run) / entry["path"]
    if (found := sha256_file(path)) != entry["sha256"]:
        raise InputError(f"{path}: sha256 {found[:12]}...; expected {entry['sha256'][:12]}..., that of certificate {certificate['name']}")
    message, model = read_model(path)
    rule = context_rule(message, sampling, str(path))
    tokenizer = load_tokenizer(Path(run) / "tokens" / corpus / "tokenizer")
    samples = []
    for number, (prompt, ids) in enumerate(zip(prompts, tokenizer.encode_batch(prompts), strict=True)):
        for sample in range(1, count + 1):
            rng = generator(seed, "generate", certificate["name"], number, sample)
            made = generate(model, rule, rng, tokens=tokens, prompt=ids, temperature=temperature, top_k=top_k, name=str(path))
            text = tokenizer.decode([*ids, *made.ids])
            samples.append({"prompt": prompt, "sample": sample, "tokens": made.ids.size, "ended": made.ended, "text": text})
    return samples


def write_text_table(run, certificates, labels, top_k, caption, options, seed, *, csv, md, tex):
    """Generate text with the hypotheses of some certificates and write it beside their bounds.

    The csv has a line per sample, with every number of the certificate and the text as it is; markdown and LaTeX show characters that
    cannot be printed as escapes (LaTeX what is not ASCII as a box), and break long lines.

    Parameters
    ----------
    run : path
        Folder of the run.
    certificates, labels, top_k
        As for `tokenbounds.tables.frame`.
    caption : str
    options : dict
        ``prompts``, ``tokens``, ``temperature``, ``count`` and perhaps ``top_k`` (see `samples_of`).
    seed : int
        The run's seed.
    csv, md, tex : path
    """
    data = frame(certificates, labels, top_k)
    found = [samples_of(run, certificate, seed, **options) for certificate in tqdm(certificates, desc="generate", unit="row", disable=None)]
    lines = pd.DataFrame([{"row": row, **sample} for row, samples in enumerate(found) for sample in samples]).set_index("row")
    with atomic_path(csv) as temporary:
        # All text in quotes: else a carriage return alone would end a line.
        table = data.join(lines.astype({"sample": "Int64", "tokens": "Int64", "ended": "boolean"}))
        table.to_csv(temporary, index=False, quoting=csv_format.QUOTE_NONNUMERIC)
    rows = list(zip(labels, certificates, found, strict=True))
    notes = f"\n{_SAMPLED.format(how=_how(options))}\n\n{NOTES}\n"
    texts = "".join(_markdown_row(label, certificate, samples) for label, certificate, samples in rows)
    write_text(md, markdown(shown(data, top_k), caption) + notes + texts)
    write_text(tex, _latex_table(rows, caption))


def _how(options):
    if options["temperature"] == 0:
        return "always the most probable token"
    among = f" among the {options['top_k']} most probable tokens" if options.get("top_k") else ""
    return f"at temperature {options['temperature']:g}{among}"


def _bound(certificate):
    bounds = certificate["metrics"]["bpd"]["bounds"]
    level = "document" if units(certificate) == "documents" else "token"
    return f"{level}-level BPD bound: {bounds['betting']['value']:.2f}; by the paper's formula: {bounds['azuma']['value']:.2f}"


def visible(text):
    """`text` with newlines as they are, tabs as spaces, and every other character that cannot be printed as an escape."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text.expandtabs(4))


def wrapped(text, columns):
    """Lines of `text`, those longer than `columns` broken at spaces where there are some; indentation is kept."""
    options = {"expand_tabs": False, "replace_whitespace": False, "break_on_hyphens": False}
    return [part for line in text.split("\n") for part in textwrap.wrap(line, columns, **options) or [""]]


def _fence(text, least):
    """Backticks that do not end inside `text`: more than any run of them in it."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def _markdown_row(label, certificate, samples):
    parts = [f"\n## {label} ({_bound(certificate)})\n"]
    for sample in samples:
        prompt, text = visible(sample["prompt"]).replace("\n", r"\n"), "\n".join(wrapped(visible(sample["text"]), _MARKDOWN_COLUMNS))
        start = f"After the prompt {(tick := _fence(prompt, 1))} {prompt} {tick}" if prompt else "From the start of a document"
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
# What fonts and packages make something else of: ligatures, curly quotes, active characters.
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
    """`text` with `_BOX` for what not every LaTeX engine and font can print."""
    return "".join(c if c.isascii() or c in _TYPOGRAPHY else _BOX for c in text)


def _latex_line(line):
    """One line of typewriter text. An empty box at its start keeps its indentation, which LaTeX would drop."""
    # Of several spaces LaTeX would keep one; the first of one between words stays a place where a line can be broken.
    spaced = re.sub(r"^ +|(?<= ) +", lambda found: _SPACE * len(found[0]), line)
    return r"\mbox{}" + spaced.translate(LATEX | _LATEX_TEXT).replace(_SPACE, "~")


def _latex_table(rows, caption):
    """A LaTeX table (booktabs, longtable): the text of a row may fill a page."""
    body = []
    for label, certificate, samples in rows:
        first = f"{label.translate(LATEX)} ({_bound(certificate).translate(LATEX)})"
        for sample in samples:
            text = "\\newline\n".join(_latex_line(line) for line in wrapped(_ascii(visible(sample["text"])), _LATEX_COLUMNS))
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
