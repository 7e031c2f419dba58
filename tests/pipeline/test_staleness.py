"""What a change makes stale: exactly the jobs whose result it can change."""

import contextlib
import os
import re
import shutil

import pytest

TOKEN_SMALL, TOKEN_MEDIUM, WINDOWS_SMALL = "small.levels11.text.token", "medium.levels11.text.token", "small.levels11.text.windows"
ROWS = (TOKEN_SMALL, TOKEN_MEDIUM, WINDOWS_SMALL)
TABLE, FIGURE = {"table table2"}, {"figure figure1"}
PAPER = TABLE | FIGURE


def bounds(*rows):
    return {f"bound {row}" for row in rows}


def scored(*rows, parts=2):
    return {f"score {row}.{part:05d}" for row in rows for part in range(parts)} | bounds(*rows)


MESSAGES = {"message small.levels11", "message medium.levels11"}
FROM_MESSAGES = MESSAGES | scored(*ROWS) | PAPER
TRAINED = {"train small", "train medium"} | FROM_MESSAGES
POSITIONS = {"positions text.token", "positions text.windows"}
FROM_TOKENIZER = {"tokenizer text", "tokenize text.00000", "tokenize text.00001"} | {"index text.train", "index text.val"}
EVERYTHING = {"documents text"} | FROM_TOKENIZER | POSITIONS | TRAINED

OTHER = {"family": "gpt", "corpus": "text", "architecture": {"layers": 1, "heads": 1, "width": 8}, "training": {"steps": 3, "warmup": 0}}

CONFIG = {
    "delta": ([("delta", 0.04)], bounds(*ROWS) | PAPER),
    "alpha grid": ([("bounds.alpha", [0.01, 0.5])], bounds(*ROWS) | PAPER),
    "top_k of the bounds": ([("bounds.top_k", [1, 2, 10, 100])], bounds(*ROWS) | PAPER),
    "levels of the codec": ([("codecs.levels11", {"kind": "levels", "levels": 15})], FROM_MESSAGES),
    "another codec for one model": (
        [
            ("codecs.levels5", {"kind": "levels", "levels": 5}),
            ("tables.table2.rows.1.codec", "levels5"),
            ("figures.figure1.series.GPT.1.codec", "levels5"),
        ],
        {"message medium.levels5"} | scored("medium.levels5.text.token") | PAPER,
    ),
    "n": ([("sampling.n", 400)], {"positions text.token"} | scored(TOKEN_SMALL, TOKEN_MEDIUM) | PAPER),
    "n of the windows": ([("samplings.windows.n", 70)], {"positions text.windows"} | scored(WINDOWS_SMALL) | TABLE),
    # The message says what a prediction sees, so it is another message.
    "context length": ([("sampling.context_length", 32)], FROM_MESSAGES),
    "another sampling scheme": ([("samplings.wide", {"mode": "token", "n": 100, "context_length": 16})], FROM_MESSAGES),
    "learning rate of one model": (
        [("models.small.training.learning_rate", 0.02)],
        {"train small", "message small.levels11"} | scored(TOKEN_SMALL, WINDOWS_SMALL) | PAPER,
    ),
    "caption of a table": ([("tables.table2.caption", "Other")], TABLE),
    "top_k of a table": ([("tables.table2.top_k", [1, 100])], TABLE),
    "how often a checkpoint is written": ([("models.small.training.checkpoint_minutes", 3)], set()),
    "a label": ([("figures.figure1.series.GPT.0.label", "Other")], FIGURE),
    "how scoring is executed": ([("scoring.batch_tokens", 64), ("scoring.threads", 2), ("scoring.device", "auto")], set()),
    "parts": ([("scoring.parts", 3)], scored(*ROWS, parts=3) | PAPER),
    "a model that no row uses": ([("models.other", OTHER)], set()),
    "shards": ([("corpora.text.shards", 3)], EVERYTHING | {"tokenize text.00002"}),
    "seed": ([("seed", 1)], EVERYTHING),
}

# Editing a module makes stale what it decides, although only the script is what a rule runs.
MODULES = {
    "cli": set(),
    "tables": TABLE,
    "figures": FIGURE,
    "certificate": bounds(*ROWS) | PAPER,
    "bounds/betting_bounds": bounds(*ROWS) | PAPER,
    "scoring": scored(*ROWS) | PAPER,
    "records": scored(*ROWS) | PAPER,
    "quantize": FROM_MESSAGES,
    "hypothesis": FROM_MESSAGES,
    "message": FROM_MESSAGES,
    "training": TRAINED,
    "checkpoints": TRAINED,
    "devices": TRAINED,
    "models/__init__": TRAINED,
    "models/gpt": TRAINED,
    "tokenize": FROM_TOKENIZER | POSITIONS | TRAINED,
    "sources": EVERYTHING,
    "corpus": EVERYTHING,
    "streams": EVERYTHING,
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


@pytest.mark.parametrize(("module", "expected"), MODULES.items(), ids=MODULES)
def test_module(edited, module, expected):
    path = edited.folder / "tokenbounds" / f"{module}.py"
    with restored(path):
        path.write_text(path.read_text() + "# edited\n")
        assert edited.planned() == expected


def test_script(edited):
    path = edited.folder / "workflow_scripts/bound.py"
    with restored(path):
        path.write_text(path.read_text() + "# edited\n")
        assert edited.planned() == bounds(*ROWS) | PAPER


def test_touched_but_unchanged_module(edited):
    path = edited.folder / "tokenbounds/scoring.py"
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
        found = re.search(r"^rule documents:\n    input: (.*)$", edited.snakemake("--dry-run"), re.MULTILINE)
    (edited.folder / "resources/test/folder.txt").rmdir()
    names = [name for name in found[1].split(", ") if name.startswith("resources/")]
    assert len(names) == 200 and "resources/test/008.txt" in names  # of 200 and one .jsonl
    assert not {"resources/test", "resources/test/", "resources/test/folder.txt", "resources/test/007.txt"} & set(names)


def test_another_document(edited):
    path = edited.folder / "resources/test/another.txt"
    path.write_text("One more document.")
    try:
        assert edited.planned() == EVERYTHING
    finally:
        path.unlink()
