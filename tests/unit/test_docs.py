"""The documents name only what exists; Markdown, files and functions keep their lengths."""

import argparse
import ast
import functools
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tokenbounds import cli
from tokenbounds.config.load import json_schema

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "results/README.md",
        ROOT / "resources/README.md",
    ]
)
ENTRY_POINTS = {"tokenbounds.methods", "tokenbounds.codecs", "tokenbounds.families"}
# The reader's own; the last is named because it must not exist.
READERS_OWN = {"profiles/mine", "profiles/mine/config.yaml", "profiles/default"}
PROFILES = {path.name for path in (ROOT / "profiles").iterdir()} | {"mine"}
FOLDERS = {".ci", "docs", "profiles", "rules", "tests", "tokenbounds", "workflow_scripts"}
ROOMS = {path.stem for path in (ROOT / "tokenbounds").iterdir() if not path.name.startswith("__")}

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
GENERATED = re.compile(r"^<!-- (\w+) -->$.*?^<!-- end of \1 -->$", re.MULTILINE | re.DOTALL)

by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def text_of(document):
    """Text of a document without the old names of the changelog: columns `before`, sections `Removed`."""
    text = document.read_text(encoding="utf-8")
    if document.name != "CHANGELOG.md":
        return text
    text = re.sub(r"^### Removed\n.*?(?=^##)", "", text, flags=re.MULTILINE | re.DOTALL)
    lines, renamed = [], False
    for line in text.splitlines():
        renamed = line.startswith("| before") or (renamed and line.startswith("|"))
        lines.append(line.split(" | ", 1)[-1] if renamed else line)
    return "\n".join(lines)


def spans(document):
    """Inline code of a document."""
    prose = FENCE.sub("", text_of(document))
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def commands(document):
    """Commands of a document: lines of its shell blocks, and inline code."""
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```$", text_of(document), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for command in [*lines, *spans(document)]:
        for part in re.split(r"&&|\|\s", command.partition("#")[0]):
            try:
                if words := shlex.split(part):
                    yield words
            except ValueError:  # an apostrophe in what is no command
                continue


# ---------------------------------------------------------------- names


@by_document
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", document.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        page = (document.parent / path) if path else document
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@by_document
def test_paths_exist(document):
    names = file_names()
    for span in spans(document):
        for word in span.split():
            word = word.rstrip(",;:").removesuffix("/")
            if word in READERS_OWN or re.search(r"[<>()$]", word):
                continue
            if "/" in word and word.split("/")[0] in FOLDERS | {"cluster", "pipeline", "unit"}:
                assert any(matches(base, word) for base in (ROOT, ROOT / "tests", document.parent)), span
            elif re.fullmatch(r"[\w.-]+\.(py|md|smk|toml)|Snakefile|Makefile|config\.yaml", word):
                assert word in names, span


@functools.cache
def file_names():
    """Names of all files, whatever their folder."""
    inner = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    return inner | {path.name for path in ROOT.iterdir()}


def matches(base, pattern):
    """Whether a path exists below a folder; `{...}` and `*` stand for anything."""
    return any(base.glob(re.sub(r"\{[^}]*\}", "*", pattern)))


@functools.cache
def run_folders():
    """Folders of a run that rules write to, and that of the checkpoints, which are not declared."""
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    return set(re.findall(r"results/\{+run\}+/(\w+)/", rules)) | {"checkpoints"}


@by_document
def test_result_folders_are_those_of_the_rules(document):
    for folder in re.findall(r"results/\{run\}/(\w+)/", " ".join(spans(document))):
        assert folder in run_folders()


def test_every_result_folder_is_described():
    described = (ROOT / "docs/formats.md").read_text()
    assert not [folder for folder in run_folders() if f"`{folder}/" not in described]


@by_document
def test_dotted_names_exist(document):
    for span in spans(document):
        for name in re.findall(r"(?<![\w./-])[a-z]\w*(?:\.[A-Za-z_][\w-]*)+(?![\w/({.-])", span):
            first, last = name.split(".")[0], name.split(".")[-1]
            if (
                last in ("py", "md", "smk", "yaml", "json", "toml", "bin", "csv", "typed")
                or name in ENTRY_POINTS
            ):
                continue
            if first == "tokenbounds":
                assert resolves(name), name
            elif first in ROOMS | set(schema()["properties"]):
                assert resolves(f"tokenbounds.{name}") or is_key(name), name


def resolves(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@functools.cache
def schema():
    """The schema of the configuration."""
    return json_schema()


@functools.cache
def paper_config():
    """The data of config.yaml."""
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def is_key(name):
    """Whether a dotted name is a path in config.yaml, or in some section of the schema."""
    node = paper_config()
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node is not None or any(
        path_in(section, name.split(".")) for section in [schema(), *schema()["$defs"].values()]
    )


def path_in(node, parts):
    """Whether a path of keys leads through a node of the schema."""
    if not parts:
        return True
    if "$ref" in node:
        return path_in(schema()["$defs"][node["$ref"].rpartition("/")[2]], parts)
    branches = [*node.get("anyOf", []), *node.get("oneOf", [])]
    if isinstance(node.get("items"), dict):
        branches.append(node["items"])
    inner = node.get("properties", {}).get(parts[0])
    if inner is None and isinstance(node.get("additionalProperties"), dict):
        inner = node["additionalProperties"]
    return any(path_in(branch, parts) for branch in branches) or (
        inner is not None and path_in(inner, parts[1:])
    )


@by_document
def test_kinds_and_families_exist(document):
    known = {
        value
        for section in schema()["$defs"].values()
        for key in ("kind", "family")
        if (value := section.get("properties", {}).get(key, {}).get("const"))
    }
    for span in spans(document):
        for value in re.findall(r"(?:kind|family): (\w+)", span):
            assert value in known, span


@by_document
def test_rules_exist(document):
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    names = set(re.findall(r"^(?:rule|use rule \w+ as) (\w+)", rules, re.MULTILINE))
    for name in re.findall(r"\brules? `(\w+)`", text_of(document)):
        assert name in names, name


def test_table_of_resources_names_every_rule():
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    names = set(re.findall(r"^rule (\w+):", rules, re.MULTILINE))
    text = (ROOT / "docs/cluster.md").read_text()
    rows = re.search(r"^\| rules \|.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)[0]
    named = {name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    in_words = {"table", "figure", "download_corpus", "download_model", "download_tokenizer"}
    assert named - {"text_table"} == names - in_words


@by_document
def test_tests_exist(document):
    functions = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    for name in re.findall(r"`(test_\w+)(?:\.\.\.)?`", text_of(document)):
        assert any(function.startswith(name) for function in functions), name


# ---------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def subcommands():
    """Options of each command of `tokenbounds`, by name."""
    captured = []

    class Captured(Exception):
        pass

    def capture(parser, *_):
        captured.append(parser)
        raise Captured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", capture)
        with pytest.raises(Captured):
            cli.main([])
    (commands,) = [
        action for action in captured[0]._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return {name: set(parser._option_string_actions) for name, parser in commands.choices.items()}


@pytest.fixture(scope="module")
def snakemake_options():
    from snakemake.cli import get_argument_parser

    return set(get_argument_parser()._option_string_actions)


def options(words):
    return {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}


@by_document
def test_commands_of_tokenbounds_exist(document, subcommands):
    for words in commands(document):
        if words[0].removeprefix(".venv/bin/") == "tokenbounds" and len(words) > 1:
            assert words[1] in subcommands, words
            assert options(words[2:]) <= subcommands[words[1]], words


@by_document
def test_commands_of_make_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(document):
        if words[0] == "make" and len(words) > 1:
            for word in words[1:]:
                key, _, value = word.partition("=")
                assert word in targets or (key == "PROFILE" and value in PROFILES), words


@by_document
def test_commands_of_snakemake_exist(document, snakemake_options):
    for words in commands(document):
        if words[0].removeprefix(".venv/bin/") == "snakemake" and len(words) > 1:
            assert options(words) <= snakemake_options, words
            if "--profile" in words:
                assert (ROOT / words[words.index("--profile") + 1]).is_dir(), words


@by_document
def test_programs_exist(document):
    for words in commands(document):
        program = words[0]
        if program.startswith(".venv/bin/"):
            program = program.removeprefix(".venv/bin/")
            assert (Path(sys.executable).parent / program).exists(), words
        if program == "python" and len(words) > 2 and words[1] == "-m":
            assert importlib.util.find_spec(words[2]), words
        elif program == "python" and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words


# ---------------------------------------------------------------- lengths


@by_document
def test_markdown_is_wrapped(document):
    """At 100 columns; tables, code, generated parts and lines with a long address are not."""
    text = GENERATED.sub("", FENCE.sub("", document.read_text(encoding="utf-8")))
    for line in text.splitlines():
        if not line.startswith(("|", "    ")) and not re.search(r"\S{80}", line):
            assert len(line) <= 100, line


def sources(*folders, suffixes=(".py", ".smk")):
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    assert paths
    return paths


def too_long(paths, limit):
    counts = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    return {name: count for name, count in counts.items() if count > limit}


def test_files_are_short():
    assert not too_long(sources("tokenbounds", "rules", "workflow_scripts", "tests"), 450)


def test_rules_and_scripts_are_short():
    assert not too_long([ROOT / "Snakefile"], 59)
    assert not too_long([ROOT / "rules/common.smk"], 99)
    assert not too_long(sources("rules"), 150)
    whole_programs = ("launch.py", "common.py")
    scripts = [path for path in sources("workflow_scripts") if path.name not in whole_programs]
    assert not too_long(scripts, 25)


def test_functions_are_short():
    """At most 80 lines of code: docstring, comments, blank lines and the signature do not count."""
    found = {}
    for path in sources("tokenbounds", suffixes=(".py",)):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                code = lines[body[0].lineno - 1 : node.end_lineno] if body else []
                count = sum(1 for line in code if line.strip() and not line.strip().startswith("#"))
                if count > 80:
                    found[f"{path.relative_to(ROOT)}: {node.name}"] = count
    assert not found


# ---------------------------------------------------------------- versions


def test_version_is_the_changelogs_and_the_citations():
    from tokenbounds import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$", changelog, re.MULTILINE).groups()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == __version__ == citation["version"] and date == str(citation["date-released"])
