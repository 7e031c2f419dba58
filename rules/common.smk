"""Paths, target lists, wildcard constraints and input functions; nothing else."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from tokenbounds.config import parse_config, slice_of
from tokenbounds.errors import InputError
from tokenbounds.files import is_excluded, matching_files


def refuse(line):
    """End before any job, with a line that the launcher repeats at the end (see workflow_scripts/common.py)."""
    if errors := os.environ.get("TOKENBOUNDS_ERRORS"):
        with open(errors, "a", encoding="utf-8") as handle:
            handle.write(f"error: {line}\n")
    raise WorkflowError(line)


try:
    CONFIG = parse_config(config, " + ".join(map(str, workflow.configfiles)))
except InputError as error:
    refuse(str(error))

RESULTS = f"results/{CONFIG.run}"
PARTS = [f"{part:05d}" for part in range(CONFIG.scoring.parts)]
TARGETS = [f"{RESULTS}/tables/{table}.{suffix}" for table in CONFIG.tables for suffix in ("csv", "md", "tex")] + [
    f"{RESULTS}/figures/{figure}.{suffix}" for figure in CONFIG.figures for suffix in ("csv", "pdf", "png")
]


wildcard_constraints:
    run=CONFIG.run,
    corpus="|".join(CONFIG.corpora),
    model="|".join(CONFIG.models),
    codec="|".join(CONFIG.codecs),
    sampling="|".join(CONFIG.schemes),
    table="|".join(CONFIG.tables) or "(?!)",
    figure="|".join(CONFIG.figures) or "(?!)",
    split="train|val",
    shard=r"\d{5}",
    part=r"\d{5}",


def package(*modules):
    """The modules of the package that decide a rule's result: editing one makes the result stale, which a script's code alone would not."""
    found = {module: sorted(Path(workflow.basedir, "tokenbounds").glob(f"{module}.py")) for module in modules}
    if missing := [module for module, paths in found.items() if not paths]:
        refuse(f"rules name the module tokenbounds/{missing[0]}.py, which does not exist")
    return [str(path.relative_to(workflow.basedir)) for paths in found.values() for path in paths]


def shards(corpus):
    """Names of a corpus' token shards."""
    return [f"{shard:05d}" for shard in range(CONFIG.corpora[corpus].shards)]


def certificates(rows):
    """Paths of the certificates behind rows."""
    return [f"{RESULTS}/bounds/{CONFIG.certificate_name(row)}.json" for row in rows]


def corpus_files(wildcards):
    """What the manifest is made from: downloaded or local files (installed packages are followed by their version)."""
    source = CONFIG.corpora[wildcards.corpus].source
    if source.hub:
        return [f"resources/corpora/{wildcards.corpus}/download.json"]
    return [path for pattern in source.files or [] for path in matching_files(pattern) if not is_excluded(path, source.exclude)]


def tokenizer_files(wildcards):
    """The tokenizer's own files, where it is not trained here."""
    tokenizer = CONFIG.corpora[wildcards.corpus].tokenizer
    if tokenizer.hub:
        return [f"resources/tokenizers/{wildcards.corpus}/download.json"]
    if tokenizer.gpt2:
        return [f"{tokenizer.gpt2}/encoder.json", f"{tokenizer.gpt2}/vocab.bpe"]
    return [path for path in (tokenizer.file, tokenizer.sentencepiece) if path]


def installed_versions(wildcards):
    """Versions of the packages that are the corpus: another version is another corpus."""
    found = {}
    for name in CONFIG.corpora[wildcards.corpus].source.installed or []:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            refuse(f"corpora.{wildcards.corpus}.source.installed: no package '{name}' is installed in this environment")
    return found
