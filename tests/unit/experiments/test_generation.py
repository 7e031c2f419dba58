"""Generated text is drawn from the model's predictions, each with the hypothesis' own context; the table
shows any text, whatever characters it holds."""

import copy
import csv
import json
import re
import unicodedata

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import chisquare
from support.runs import CONFIG, EOT, SCHEMES, VOCAB, certificate_path, context_of, write_run

from tokenbounds.certificates.files import read_certificate, write_certificate
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import read_model
from tokenbounds.config.schema import Sampling
from tokenbounds.corpus.contexts import ContextRule
from tokenbounds.corpus.tokenizers import listed_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.experiments.generation import distribution, generate, samples_of
from tokenbounds.io.files import sha256_file, write_json
from tokenbounds.reports import text_tables
from tokenbounds.reports.formats import LATEX
from tokenbounds.reports.text_tables import visible, wrapped, write_text_table

OPTIONS = {"prompts": ["", "ab"], "tokens": 40, "temperature": 1.0, "count": 2}
SEED = 137
HOSTILE = (
    "a|b `c` ``` ```` <script>&amp;</script>\n\n    \\end{verbatim} 50% {x}_$y^~#\t\x1b[31m\r\u202e\x00"
    " \u201cq\u201d \u00e9 --- ''  end" + "x" * 130
)


class Chain:
    """A model whose prediction after token t is row t of a table of logits; it notes its inputs."""

    def __init__(self, logits):
        self.logits, self.inputs = torch.as_tensor(logits, dtype=torch.float32), []

    def hidden(self, ids):
        self.inputs.append(ids[0].tolist())
        return torch.nn.functional.one_hot(ids, len(self.logits)).float()

    def head(self, hidden):
        return hidden @ self.logits


def counting(last=9):
    """t is followed by t + 1 and `last` by EOT (0), almost surely."""
    logits = np.full((last + 1, last + 1), -100.0)
    logits[np.arange(last + 1), (np.arange(last + 1) + 1) % (last + 1)] = 0
    return Chain(logits)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    run = write_run(
        tmp_path_factory.mktemp("run") / "run",
        {"token": SCHEMES["token"], "documents": Sampling(mode="document", n=20, context_length=16)},
        config=CONFIG | {"start_token": "always"},
    )
    folder = run / "tokens/text/tokenizer"
    tokens = ["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVW"]
    listed_tokenizer(tokens).save(str(folder / "tokenizer.json"))
    facts = {
        "file": "tokenizer.json",
        "sha256": sha256_file(folder / "tokenizer.json"),
        "vocab_size": VOCAB,
        "eot_id": EOT,
    }
    write_json(
        folder / "info.json",
        {"kind": "vocabulary", "eot": tokens[0], "standing": {"kind": "program"}, **facts},
    )
    return run


@pytest.fixture(scope="module")
def certificate(run):
    return read_certificate(certificate_path(run, "token"))


# ---------------------------------------------------------------- sampling


def test_frequencies_are_those_of_the_model():
    """A chain of 5 tokens with known probabilities: how often each follows each, over 4,000 draws."""
    logits = np.random.default_rng(0).normal(size=(5, 5))
    logits[:, 0] = -100  # it never ends
    made = generate(Chain(logits), ContextRule(1, "first", 0), np.random.default_rng(1), tokens=4000)
    assert made.ids.size == 4000 and not made.ended
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (made.ids[:-1], made.ids[1:]), 1)
    for temperature, alike in ((1.0, True), (2.0, False)):
        expected = softmax(logits / temperature, axis=1)[1:, 1:]
        p_values = [
            chisquare(pairs[t, 1:], pairs[t].sum() * expected[t - 1] / expected[t - 1].sum()).pvalue
            for t in range(1, 5)
        ]
        assert (min(p_values) > 1e-3) == alike, p_values


def test_distribution():
    logits = np.array([0.0, 3.0, 1.0, 2.0, 2.0])
    assert distribution(logits) == pytest.approx(softmax(logits), abs=1e-15)
    assert distribution(logits, 0.5) == pytest.approx(softmax(2 * logits), abs=1e-15)
    assert distribution(logits + 1e5, 0.5) == pytest.approx(softmax(2 * logits), abs=1e-9)
    two = distribution(logits, top_k=1)
    assert two.tolist() == [0, 1, 0, 0, 0]
    assert np.flatnonzero(distribution(logits, top_k=2)).tolist() == [1, 3, 4]  # the last two tie
    assert distribution(logits, top_k=3)[1] == pytest.approx(np.e / (np.e + 2))
    for k in (5, 50):
        assert distribution(logits, top_k=k) == pytest.approx(softmax(logits), abs=1e-15)


@pytest.mark.parametrize("temperature", [0, 1e-6, 1e-300])
def test_no_temperature_is_the_most_probable_token(temperature):
    logits = np.random.default_rng(2).normal(size=(3, 200))
    assert [distribution(row, temperature).argmax() for row in logits] == logits.argmax(axis=1).tolist()
    assert all(distribution(row, temperature).max() == 1 for row in logits)


def test_of_equally_probable_tokens_the_first():
    assert distribution(np.array([1.0, 2.0, 2.0]), 0).tolist() == [0, 1, 0]


def test_greedy_text_of_a_network(run, certificate):
    """Against the argmax of one pass over the whole text, which sees the same because the text is shorter
    than the context."""
    message, model = read_model(run / certificate["hypothesis"]["message"]["path"])
    rule = context_rule(message, context_of(SCHEMES["token"]))
    assert rule == ContextRule(16, "always", EOT)
    made = generate(model, rule, np.random.default_rng(0), tokens=12, prompt=[3, 4], temperature=0)
    ids = np.array([EOT, 3, 4, *made.ids])
    with torch.inference_mode():
        best = model.head(model.hidden(torch.from_numpy(ids[None])))[0].argmax(dim=-1).numpy()
    assert best[2:-1].tolist() == made.ids.tolist()
    assert made.ids.size == 12 if not made.ended else best[-1] == EOT


# ---------------------------------------------------------------- contexts of predictions


@pytest.mark.parametrize(
    ("start_token", "prompt", "inputs"),
    [
        ("first", [], [[0], [1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]),
        ("always", [], [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]),
        ("first", [4, 2], [[4, 2], [4, 2, 3], [2, 3, 4], [3, 4, 5]]),
        ("always", [4, 2], [[0, 4, 2], [4, 2, 3], [2, 3, 4], [3, 4, 5]]),
        ("always", [1, 2, 3, 4, 5], [[3, 4, 5], [4, 5, 6]]),
    ],
)
def test_window_and_start_token(start_token, prompt, inputs):
    """As `tokenbounds.corpus.contexts.token_items` does for a document's tokens: at most 3 of context here,
    the start token among them."""
    model = counting()
    made = generate(
        model, ContextRule(3, start_token, 0), np.random.default_rng(0), tokens=len(inputs), prompt=prompt
    )
    assert model.inputs == inputs
    assert [*prompt, *made.ids][-len(inputs) :] == made.ids.tolist() == [step[-1] + 1 for step in inputs]


def test_the_end_of_a_document():
    made = generate(counting(last=4), ContextRule(8, "first", 0), np.random.default_rng(0), tokens=50)
    assert made.ids.tolist() == [1, 2, 3, 4] and made.ended
    cut = generate(counting(last=4), ContextRule(8, "first", 0), np.random.default_rng(0), tokens=4)
    assert cut.ids.tolist() == [1, 2, 3, 4] and not cut.ended


def test_a_prediction_that_is_not_finite():
    logits = np.zeros((3, 3))
    logits[:, 0] = -100
    logits[2, 1] = np.nan
    with pytest.raises(
        InputError, match=r"m\.bin: the prediction for token \d+ of a generated text is not finite"
    ):
        generate(
            Chain(logits),
            ContextRule(4, "first", 0),
            np.random.default_rng(0),
            tokens=100,
            prompt=[1],
            name="m.bin",
        )


# ---------------------------------------------------------------- of a certificate's hypothesis


def test_each_sample_has_its_own_stream(run, certificate):
    first = samples_of(run, certificate, SEED, **OPTIONS)
    assert first == samples_of(run, certificate, SEED, **OPTIONS)
    assert [(s["prompt"], s["sample"]) for s in first] == [("", 1), ("", 2), ("ab", 1), ("ab", 2)]
    texts = [s["text"].removeprefix(s["prompt"]) for s in first]
    texts += [s["text"].removeprefix(s["prompt"]) for s in samples_of(run, certificate, SEED + 1, **OPTIONS)]
    texts += [
        s["text"].removeprefix(s["prompt"])
        for s in samples_of(run, certificate | {"name": "another.row.of.it"}, SEED, **OPTIONS)
    ]
    assert len(set(texts)) == len(texts) == 12
    assert all(
        s["text"].startswith(s["prompt"]) and len(s["text"]) == len(s["prompt"]) + s["tokens"] for s in first
    )
    assert all(s["tokens"] == 40 or s["ended"] for s in first)
    more = samples_of(run, certificate, SEED, **OPTIONS | {"count": 3})
    assert [s for s in more if s["sample"] < 3] == first


def test_another_message_than_the_certificates(run, certificate):
    other = copy.deepcopy(certificate)
    other["hypothesis"]["message"]["sha256"] = "0" * 64
    with pytest.raises(
        InputError,
        match=r"gpt\.levels\.bin: sha256 .*expected 000000000000\.\.\., "
        r"that of certificate gpt\.levels\.text",
    ):
        samples_of(run, other, SEED, **OPTIONS)


# ---------------------------------------------------------------- the table


def written(run, certificates, labels, folder, options=OPTIONS):
    paths = {suffix: folder / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    write_text_table(run, certificates, labels, [1], "A caption.", options, SEED, **paths)
    with open(paths["csv"], newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    return lines, paths["md"].read_bytes().decode(), paths["tex"].read_bytes().decode()


def test_table(run, certificate, tmp_path):
    documents = copy.deepcopy(certificate)
    documents["sampling"]["mode"] = "document"
    documents["metrics"]["bpd"]["bounds"]["betting"]["value"] = 4.321
    lines, md, tex = written(
        run, [certificate, documents], ["A_1", "B"], tmp_path, OPTIONS | {"temperature": 0.5, "top_k": 7}
    )
    assert [line["label"] for line in lines] == 4 * ["A_1"] + 4 * ["B"] + ["Random guess"]
    made = samples_of(run, certificate, SEED, **OPTIONS | {"temperature": 0.5, "top_k": 7})
    assert [line["text"] for line in lines] == 2 * [s["text"] for s in made] + [""]
    assert [line["prompt"] for line in lines[:4]] == ["", "", "ab", "ab"]
    bounds = certificate["metrics"]["bpd"]["bounds"]
    betting, formula = (bounds[method]["value"] for method in ("betting", "azuma"))
    assert float(lines[0]["bpd_betting"]) == betting and float(lines[4]["bpd_betting"]) == 4.321
    assert f"## A_1 (token-level BPD bound: {betting:.2f}; by the paper's formula: {formula:.2f})\n" in md
    assert "## B (document-level BPD bound: 4.32;" in md
    assert "at temperature 0.5 among the 7 most probable tokens, without the smoothing" in md
    assert md.startswith("A caption.\n\n| model") and md.count("After the prompt ` ab `, ") == 4
    assert rf"A\_1 (token-level BPD bound: {betting:.2f}; by the paper's formula: {formula:.2f}) & " in tex
    assert tex.count(r" & \ttfamily") == 8 and tex.count(r"\midrule") == 8 and tex.count(r"\bottomrule") == 1


def code_blocks(md):
    """Contents of fenced code blocks, by CommonMark's rule: a fence ends at the first line of at least as
    many backticks alone."""
    blocks, fence = [], None
    for line in md.split("\n"):
        run = re.fullmatch(r"(`{3,})(text)?", line)
        if fence is None and run and run[2]:
            fence, lines = len(run[1]), []
        elif fence is not None and run and not run[2] and len(run[1]) >= fence:
            blocks.append("\n".join(lines))
            fence = None
        elif fence is not None:
            lines.append(line)
    assert fence is None
    return blocks


@pytest.fixture
def hostile(run, certificate, tmp_path, monkeypatch):
    """The table of a model that generates `HOSTILE` after the prompt "`` "."""
    sample = {"prompt": "`` \n", "sample": 1, "tokens": 3, "ended": True, "text": HOSTILE}
    monkeypatch.setattr(
        text_tables,
        "samples_of",
        lambda *_, **__: [
            sample,
            {**sample, "text": "```\n" + HOSTILE},
            {**sample, "prompt": "", "text": "a\rb"},
        ],
    )
    return written(run, [certificate], ["A"], tmp_path)


def test_hostile_text_in_csv(hostile):
    assert [line["text"] for line in hostile[0]] == [HOSTILE, "```\n" + HOSTILE, "a\rb", ""]
    assert hostile[0][0]["prompt"] == "`` \n"


def test_hostile_text_in_markdown(hostile):
    md = hostile[1]
    assert not [c for c in md if unicodedata.category(c)[0] == "C" and c != "\n"]
    assert max(len(line) for block in code_blocks(md) for line in block.split("\n")) == 100
    first, second, _ = (block.replace("\n", "") for block in code_blocks(md))
    shown = visible(HOSTILE).replace("\n", "")
    assert first.replace(" ", "") == shown.replace(" ", "")  # a line is broken at a space
    assert second == "```" + first
    for part in (
        r"\x1b[31m\r\u202e\x00",
        "<script>&amp;</script>",
        "\n    \\end{verbatim} 50%",
        "a|b `c` ``` ````",
    ):
        assert part in md
    assert "After the prompt ``` `` \\n ```, 3 tokens, the model ended the document:" in md


def test_hostile_text_in_latex(hostile):
    """Undoing the escapes gives the text back, and nothing else is left that TeX would act on."""
    tex = hostile[2]
    assert tex.isascii()
    text = tex.split("\\ttfamily\\footnotesize\n")[1].split(" \\\\\n\\midrule")[0]
    lines = text.split("\\newline\n")
    assert all(line.startswith(r"\mbox{}") for line in lines)
    commands = {value: chr(key) for key, value in (LATEX | text_tables._LATEX_TEXT).items()} | {"~": " "}
    pattern = "|".join(re.escape(command) for command in sorted(commands, key=len, reverse=True))
    plain = []
    for line in lines:
        line = line.removeprefix(r"\mbox{}")
        assert not re.search(r"[\\{}%&_#$^`'\"<>]", re.sub(pattern, "", line)), line
        plain.append(re.sub(pattern, lambda match: commands[match[0]], line))
    typography = visible(HOSTILE).replace("\u00e9", text_tables._BOX)
    assert plain == wrapped(typography, 60)
    assert plain[2].startswith("    \\end{verbatim} 50% {x}_$y^~#")


def test_lines_are_broken_and_indentation_kept():
    assert wrapped("    return  x\n\n\nend", 40) == ["    return  x", "", "", "end"]
    assert wrapped("one two-three " * 2, 12) == 2 * ["one", "two-three"]
    assert wrapped("y" * 25, 10) == ["y" * 10, "y" * 10, "y" * 5]


def test_the_workflow_generates_with_the_best_certificate_of_a_row(run, tmp_path):
    certificate = read_certificate(certificate_path(run, "token"))
    worse, better = copy.deepcopy(certificate), copy.deepcopy(certificate)
    for value, made, name in ((9.0, worse, "w"), (1.0, better, "b")):
        made["metrics"]["bpd"]["bounds"]["betting"]["value"] = value
        made["settings"]["candidates"], made["name"] = 2, f"{name}.levels.text.token"
        write_certificate(run / "bounds" / f"{made['name']}.json", made)
    paths = [run / "bounds" / f"{name}.levels.text.token.json" for name in "wb"]
    outputs = {suffix: tmp_path / f"t.{suffix}" for suffix in ("csv", "md", "tex")}
    spec = {"labels": ["A"], "counts": [2], "top_k": [1], "caption": "", "samples": OPTIONS, "methods": []}
    text_tables.draw({"certificates": paths}, spec | {"seed": SEED, "threads": 1}, outputs)
    lines = list(csv.DictReader(outputs["csv"].open(newline="", encoding="utf-8")))
    assert {line["certificate"] for line in lines[:-1]} == {"b.levels.text.token"}
    assert [line["text"] for line in lines[:-1]] == [
        s["text"] for s in samples_of(run, json.loads(paths[1].read_text()), SEED, **OPTIONS)
    ]
