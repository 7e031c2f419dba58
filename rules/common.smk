"""Paths, target lists, wildcard constraints and input functions; nothing else."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from tokenbounds.config import parse_config
from tokenbounds.sections import slice_of
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


# What makes a model from a seed or from a message.
MODELS = ("models/__init__", "models/layers", "models/gpt", "models/structured", "models/subspace", "models/causal", "streams")


# What decodes a message.
DECODING = ("hypothesis", "message", "lattice", "models/quip", "smoothing", *MODELS)


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


def learns(wildcards):
    """Whether a codec runs the model on training tokens: for tuning, or for the Hessians of a lattice."""
    codec = CONFIG.codecs[wildcards.codec]
    return codec.kind == "lattice" or codec.tuning is not None


def models_of(*families):
    """Wildcard constraint: the models of some families."""
    return "|".join(name for name, model in CONFIG.models.items() if model.family in families) or "(?!)"


def codecs_of(*kinds):
    """Wildcard constraint: the codecs of some kinds."""
    return "|".join(name for name, codec in CONFIG.codecs.items() if codec.kind in kinds) or "(?!)"


def figures_of(*kinds):
    """Wildcard constraint: the figures of some kinds."""
    return "|".join(name for name, figure in CONFIG.figures.items() if figure.kind in kinds) or "(?!)"


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
    """Paths of the certificates behind rows: of each row all those that it takes the best of."""
    return [f"{RESULTS}/bounds/{name}.json" for row in rows for name in CONFIG.certificate_names(row)]


def training_tokens(wildcards):
    """The index of the tokens that a model was trained on."""
    return f"results/{wildcards.run}/tokens/{CONFIG.models[wildcards.model].corpus}/train/index.json"


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
    if tokenizer.corpus:
        return [f"{RESULTS}/tokens/{tokenizer.corpus}/tokenizer"]
    if tokenizer.gpt2:
        return [f"{tokenizer.gpt2}/encoder.json", f"{tokenizer.gpt2}/vocab.bpe"]
    return [path for path in (tokenizer.file, tokenizer.sentencepiece) if path]


def published_files(wildcards):
    """The manifest of a published model's download, or the files of its folder, config.json first."""
    model = CONFIG.models[wildcards.model]
    if model.hub:
        return [f"resources/models/{wildcards.model}/download.json"]
    weights = [path for pattern in ("*.safetensors", "*.safetensors.index.json") for path in matching_files(f"{model.folder}/{pattern}")]
    return [f"{model.folder}/config.json", *weights]


def installed_versions(wildcards):
    """Versions of the packages that are the corpus: another version is another corpus."""
    found = {}
    for name in CONFIG.corpora[wildcards.corpus].source.installed or []:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            refuse(f"corpora.{wildcards.corpus}.source.installed: no package '{name}' is installed in this environment")
    return found
