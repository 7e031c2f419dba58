"""A change makes stale exactly the jobs whose result it can change."""

import contextlib
import os
import re
import shutil

import pytest

TOKEN_SMALL, TOKEN_MEDIUM, WINDOWS_SMALL = (
    "small.levels11.text.token",
    "medium.levels11.text.token",
    "small.levels11.text.windows",
)
DOCUMENTS, LORA = (
    "sublora.levels5-tuned.text.documents",
    ("lora-1.levels11.text.token", "lora-2.levels11.text.token"),
)
MONARCH, HEAD = "monarch.levels11.text.token", "monarch.head.text.token"
MARKOV = "markov.counts.text.token"
ROWS = (TOKEN_SMALL, TOKEN_MEDIUM, WINDOWS_SMALL, DOCUMENTS, *LORA, MONARCH, HEAD, MARKOV)
PAPER_OF = {  # what shows which rows
    "table table2": {TOKEN_SMALL, TOKEN_MEDIUM, WINDOWS_SMALL},
    "table table1": {DOCUMENTS, *LORA, HEAD},
    "table table5": {MARKOV},
    "table table6": set(LORA),
    "text_table table9": {TOKEN_SMALL, *LORA, DOCUMENTS},
    "figure figure1": {TOKEN_SMALL, TOKEN_MEDIUM},
    "smoothing_figure figure3": {MONARCH, HEAD},
}
TABLES = {name for name in PAPER_OF if "table " in name}
DOWNSTREAM = {"score_resampled figure2", "table table7", "figure figure2"}
RESAMPLED = {"resample figure2.medium.levels11.text.token"} | DOWNSTREAM
TABLE, FIGURE = {"table table2"}, {"figure figure1"}


def bounds(*rows):
    """The certificates of rows, and the tables and figures that show them."""
    return {f"bound {row}" for row in rows} | {name for name, shown in PAPER_OF.items() if shown & set(rows)}


def scored(*rows, parts=2):
    entropy = {"figure figure2"} if WINDOWS_SMALL in rows else set()
    return {f"score {row}.{part:05d}" for row in rows for part in range(parts)} | bounds(*rows) | entropy


def coded(*messages):
    """Messages, as "model.codec", and all that follows from them."""
    heads = {"alpha_head monarch.head"} if "monarch.levels11" in messages else set()
    found = {*messages, *(["monarch.head"] if heads else [])}
    evaluated = DOWNSTREAM if found & {"small.levels11", "monarch.head"} else set()
    heads |= RESAMPLED if "medium.levels11" in found else evaluated
    return (
        {f"message {name}" for name in messages}
        | heads
        | scored(*(row for row in ROWS if ".".join(row.split(".")[:2]) in found))
    )


LEVELS11 = [f"{model}.levels11" for model in ("small", "medium", "lora-1", "lora-2", "monarch")]
MODELS = ("small", "medium", "lora-1", "lora-2", "monarch", "sublora")
OF_TRAINED = coded(*LEVELS11, "sublora.levels5-tuned")
FROM_MESSAGES = OF_TRAINED | coded("markov.counts")
TRAINED = {f"train {model}" for model in MODELS} | OF_TRAINED | {"figure figure1-right"}
COUNTED = {"markov markov"} | coded("markov.counts")
FROM_TOKENIZER = {"tokenizer text", "tokenize text.00000", "tokenize text.00001"} | {
    "index text.train",
    "index text.val",
}
EVERYTHING = {"documents text"} | FROM_TOKENIZER | TRAINED | COUNTED
TOKEN_ROWS = (TOKEN_SMALL, TOKEN_MEDIUM, *LORA, MONARCH, HEAD, MARKOV)
FROM_HEAD = {"alpha_head monarch.head"} | scored(HEAD) | DOWNSTREAM

INTEGERS = ("integers-structured", "integers-random")
MEMORIZED = {"figure figure4"} | {f"memorization figure4.{name}" for name in INTEGERS}
FROM_INTEGERS_TRAINED = {f"train {name}" for name in INTEGERS} | MEMORIZED
FROM_INTEGERS = FROM_INTEGERS_TRAINED | {
    f"index {name}.{split}" for name in INTEGERS for split in ("train", "val")
}
TOKENIZED = (
    FROM_INTEGERS
    | {f"tokenizer {name}" for name in INTEGERS}
    | {f"tokenize {name}.00000" for name in INTEGERS}
)
DOCUMENTED = TOKENIZED | {f"documents {name}" for name in INTEGERS}
GENERATED = DOCUMENTED | {f"sequences {name}" for name in INTEGERS}

OTHER = {
    "family": "gpt",
    "corpus": "text",
    "architecture": {"layers": 1, "heads": 1, "width": 8},
    "training": {"steps": 3, "warmup": 0},
}

CONFIG = {
    # The head was trained for another delta or grid, and its message depends on it.
    "delta": ([("delta", 0.04)], bounds(*ROWS) | FROM_HEAD),
    "alpha grid": ([("bounds.alpha", [0.01, 0.5])], bounds(*ROWS) | FROM_HEAD),
    "top_k of the bounds": ([("bounds.top_k", [1, 2, 10, 100])], bounds(*ROWS)),
    "levels of the codec": ([("codecs.levels11", {"kind": "levels", "levels": 15})], coded(*LEVELS11)),
    "another codec for one model": (
        [
            ("codecs.levels5", {"kind": "levels", "levels": 5}),
            ("tables.table2.rows.1.codec", "levels5"),
            ("figures.figure1.series.0.rows.1.codec", "levels5"),
        ],
        {"message medium.levels5"} | scored("medium.levels5.text.token") | TABLE | FIGURE,
    ),
    "another codec to pick from": (
        [
            ("tables.table2.rows.1.codec", ["levels11", "levels5"]),
            ("codecs.levels5", {"kind": "levels", "levels": 5}),
        ],
        {"message medium.levels5"} | scored("medium.levels5.text.token") | bounds(TOKEN_MEDIUM),
    ),
    "n": (
        [("sampling.n", 400)],
        scored(*TOKEN_ROWS) | FROM_HEAD,
    ),
    "n of the windows": ([("samplings.windows.n", 70)], scored(WINDOWS_SMALL)),
    "beacon": ([("sampling.beacon", "round 7")], scored(*TOKEN_ROWS)),
    # The message says what a prediction sees, so it is another message.
    "context length": ([("sampling.context_length", 32)], FROM_MESSAGES),
    "another sampling scheme": (
        [("samplings.wide", {"mode": "token", "n": 100, "context_length": 16})],
        FROM_MESSAGES,
    ),
    "learning rate of one model": (
        [("models.small.training.learning_rate", 0.02)],
        {"train small"} | coded("small.levels11"),
    ),
    "tuning of a codec": ([("codecs.levels5-tuned.tuning.steps", 4)], coded("sublora.levels5-tuned")),
    "a smoothing head": ([("codecs.head.tokens", 300)], FROM_HEAD),
    "rank of one of a sweep": (
        [("models.monarch.structure.blocks", 2)],
        {"train monarch", "figure figure1-right"} | coded("monarch.levels11"),
    ),
    "caption of a table": ([("tables.table2.caption", "Other")], TABLE),
    "what is generated": ([("tables.table9.samples.tokens", 81)], {"text_table table9"}),
    "what is resampled": ([("figures.figure2.tokens", 3)], RESAMPLED),
    "top_k of a table": ([("tables.table2.top_k", [1, 100])], TABLE),
    "how often a checkpoint is written": ([("models.small.training.checkpoint_minutes", 3)], set()),
    "a label": ([("figures.figure1.series.0.rows.0.label", "Other")], FIGURE),
    "how scoring is executed": (
        [("scoring.threads", 2), ("scoring.device", "auto")],
        set(),
    ),
    # In what shapes a prediction is computed is part of the hypothesis.
    "arithmetic": (
        [("scoring.arithmetic.batch_tokens", 1024)],
        FROM_MESSAGES | MEMORIZED,
    ),
    "arithmetic of one model": (
        [("models.medium.arithmetic", {"batch_tokens": 1024})],
        coded("medium.levels11"),
    ),
    "parts": ([("scoring.parts", 3)], scored(*ROWS, parts=3)),
    "a model that no row uses": ([("models.other", OTHER)], set()),
    "shards": ([("corpora.text.shards", 3)], EVERYTHING | {"tokenize text.00002"}),
    "levels of a memorization figure": ([("figures.figure4.levels", [3])], MEMORIZED),
    "seed": ([("seed", 1)], EVERYTHING | GENERATED),
}

CODE = "\n_edited = 1\n"
REPORTS = {*PAPER_OF, "figure figure1-right", "figure figure2", "figure figure4", "table table7"}

# Editing a module makes stale what it decides and no more: (module, text that is added, jobs that follow).
EDITS = {
    "comment": ("training/loop", "# edited\n", set()),
    "docstring": ("bounds/betting_bounds", '"""', set()),
    "schema": ("config/schema/bounds", CODE, set()),
    "files": ("io/files", CODE, set()),
    "command line": ("cli", CODE, set()),
    "a family": ("models/markov", CODE, COUNTED),
    "another family": ("models/gpt", CODE, TRAINED | FROM_INTEGERS_TRAINED),
    "training": ("training/loop", CODE, TRAINED | FROM_INTEGERS_TRAINED),
    "a codec": ("codecs/counts", CODE, coded("markov.counts")),
    "another codec": ("codecs/levels", CODE, OF_TRAINED | MEMORIZED),
    "preparation of a codec": ("codecs/quantization_aware", CODE, coded("sublora.levels5-tuned")),
    "a codec that no row uses": ("codecs/lattice", CODE, set()),
    "a bound": ("bounds/betting_bounds", CODE, bounds(*ROWS) | FROM_HEAD),
    "scoring": ("scoring/score", CODE, scored(*ROWS) | FROM_HEAD | DOWNSTREAM | MEMORIZED),
    "certificates": ("certificates/make", CODE, bounds(*ROWS)),
    "a table": ("reports/tables", CODE, TABLES),
    "a figure": ("reports/figures/memorization", CODE, {"figure figure4"}),
    "an experiment": ("experiments/generation", CODE, {"text_table table9"}),
    "documents": ("corpus/sources", CODE, EVERYTHING | DOCUMENTED),
    "randomness": ("randomness", CODE, EVERYTHING | GENERATED),
}


@pytest.fixture(scope="module")
def edited(finished, tmp_path_factory):
    """One copy for all dry runs: each puts back what it changed."""
    folder = tmp_path_factory.mktemp("edited") / "copy"
    shutil.copytree(finished.folder, folder)
    return type(finished)(folder)


@contextlib.contextmanager
def restored(path):
    content, times = path.read_bytes(), path.stat()
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(("changes", "expected"), CONFIG.values(), ids=CONFIG)
def test_configuration(edited, changes, expected):
    with restored(edited.overlay):
        for key, value in changes:
            edited.change(key, value)
        assert edited.planned() == expected


@pytest.mark.parametrize(("module", "text", "expected"), EDITS.values(), ids=EDITS)
def test_module(edited, module, text, expected):
    path = edited.folder / "tokenbounds" / f"{module}.py"
    with restored(path):
        source = path.read_text()
        edit = source.replace('"""', '"""Edited. ', 1) if text.startswith('"""') else source + text
        assert edit != source
        path.write_text(edit)
        assert edited.planned() == expected


def test_script(edited):
    path = edited.folder / "workflow_scripts/bound.py"
    with restored(path):
        path.write_text(path.read_text() + "# edited\n")
        assert edited.planned() == bounds(*ROWS)


def test_a_certificate_that_is_gone_is_made_again(edited):
    path = edited.results / f"bounds/{TOKEN_MEDIUM}.json"
    aside = path.rename(path.with_suffix(".aside"))
    try:
        assert edited.planned() == bounds(TOKEN_MEDIUM)
    finally:
        aside.rename(path)


def test_touched_but_unchanged_module(edited):
    path = edited.folder / "tokenbounds/scoring/score.py"
    with restored(path):
        path.touch()
        assert edited.planned() == set()


def test_document_edited_before_a_run_that_was_cut_off(edited):
    """A document of another text, of the same length; the run gets no further than the manifest."""
    path, manifest = edited.folder / "resources/test/007.txt", edited.results / "tokens/text/documents.json"
    with restored(path), restored(manifest), restored(edited.results / "tokens/text/roles.bin"):
        text, size = path.read_text(), manifest.stat().st_size
        path.write_text(text.swapcase())
        assert path.read_text() != text and edited.planned() == EVERYTHING
        edited.snakemake("--until", "documents")
        assert manifest.stat().st_size == size
        assert edited.planned() == EVERYTHING - {"documents text"}


def test_excluded_files_and_folders_are_not_followed(edited):
    (edited.folder / "resources/test/folder.txt").mkdir()
    with restored(edited.overlay):
        edited.change("corpora.text.source", {"files": ["resources/test/**"], "exclude": ["*/007.txt"]})
        found = re.search(r"^rule documents:\n    input: (.*)$", edited.dry_run(), re.MULTILINE)
    (edited.folder / "resources/test/folder.txt").rmdir()
    names = [name for name in found[1].split(", ") if name.startswith("resources/")]
    assert len(names) == 200 and "resources/test/008.txt" in names  # of 200 and one .jsonl
    assert not {
        "resources/test",
        "resources/test/",
        "resources/test/folder.txt",
        "resources/test/007.txt",
    } & set(names)


def test_another_document(edited):
    path = edited.folder / "resources/test/another.txt"
    path.write_text("One more document.")
    try:
        assert edited.planned() == EVERYTHING
    finally:
        path.unlink()
