"""Paths, target lists, wildcard constraints and input functions; nothing else."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from tokenbounds.config import parse_config
from tokenbounds.sections import PUBLISHED, slice_of
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


# What makes a model from a seed or from a message.
MODELS = ("models/__init__", "models/layers", "models/gpt", "models/structured", "models/subspace", "models/causal", "streams")


# What decodes a message.
DECODING = ("hypothesis", "message", "lattice", "count_codec", "models/quip", "models/markov", "smoothing", *MODELS)


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
    return codec.kind == "lattice" or getattr(codec, "tuning", None) is not None


def models_of(*families):
    """Wildcard constraint: the models of some families."""
    return "|".join(name for name, model in CONFIG.models.items() if model.family in families) or "(?!)"


def codecs_of(*kinds):
    """Wildcard constraint: the codecs of some kinds."""
    return "|".join(name for name, codec in CONFIG.codecs.items() if codec.kind in kinds) or "(?!)"


def corpora_of(kind):
    """Wildcard constraint: the corpora whose source is of a kind."""
    return "|".join(name for name, corpus in CONFIG.corpora.items() if getattr(corpus.source, kind)) or "(?!)"


def tables_of(text):
    """Wildcard constraint: the tables with generated text, or those without."""
    return "|".join(name for name, table in CONFIG.tables.items() if (table.samples is not None) == text) or "(?!)"


def figures_of(*kinds):
    """Wildcard constraint: the figures of some kinds."""
    return "|".join(name for name, figure in CONFIG.figures.items() if figure.kind in kinds) or "(?!)"


def package(*modules):
    """The modules of the package that decide a rule's result: editing one makes the result stale, which a script's code alone would not."""
    found = {module: sorted(Path(workflow.basedir, "tokenbounds").glob(f"{module}.py")) for module in modules}
    if missing := [module for module, paths in found.items() if not paths]:
        refuse(f"rules name the module tokenbounds/{missing[0]}.py, which does not exist")
    return [str(path.relative_to(workflow.basedir)) for paths in found.values() for path in paths]


def scaled(amount):
    """A resource that a retry asks for more of: memory in MB, or minutes; a number, or a function of the wildcards."""
    return lambda wildcards, attempt: (amount(wildcards) if callable(amount) else amount) * attempt


def shards(corpus):
    """Names of a corpus' token shards."""
    return [f"{shard:05d}" for shard in range(CONFIG.corpora[corpus].shards)]


def certificates(rows):
    """Paths of the certificates behind rows: of each row all those that it takes the best of."""
    return [f"{RESULTS}/bounds/{name}.json" for row in rows for name in CONFIG.certificate_names(row)]


def shown_certificates():
    """Paths of all certificates behind tables and figures, each once."""
    rows = [row for table in CONFIG.tables.values() for row in table.rows]
    rows += [row for figure in CONFIG.figures.values() for row in CONFIG.shown(figure)]
    return list(dict.fromkeys(certificates(rows)))


def trained_models(rows):
    """Paths of the configurations of the models behind rows, each once: they say how the training ended."""
    return [f"{RESULTS}/models/{model}/config.json" for model in dict.fromkeys(model for row in rows for model in row.model)]


def messages(rows):
    """Paths of the messages of the hypotheses behind rows, each once."""
    names = [".".join(name.split(".")[:2]) for row in rows for name in CONFIG.certificate_names(row)]
    return [f"{RESULTS}/messages/{name}.bin" for name in dict.fromkeys(names)]


def training_tokens(wildcards):
    """The index of the tokens that a model was trained on."""
    return f"results/{wildcards.run}/tokens/{CONFIG.models[wildcards.model].corpus}/train/index.json"


def corpus_files(wildcards):
    """What the manifest is made from: downloaded, made or local files (installed packages are followed by their version)."""
    source = CONFIG.corpora[wildcards.corpus].source
    if source.hub:
        return [f"resources/corpora/{wildcards.corpus}/download.json"]
    if source.made:
        return [f"{RESULTS}/tokens/{wildcards.corpus}/{source.made}"]
    return [path for pattern in source.files or [] for path in matching_files(pattern) if not is_excluded(path, source.exclude)]


def antibody_files(wildcards):
    """The data units or files of families that a corpus of antibodies is read from."""
    source = CONFIG.corpora[wildcards.corpus].source.antibodies
    return [path for pattern in source.units or source.families or [] for path in matching_files(pattern)]


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


def zipped_files(wildcards):
    """The published files that are the hypothesis itself, where the message only names them."""
    return published_files(wildcards) if CONFIG.codecs[wildcards.codec].kind == "zip" else []


def gate_file(wildcards):
    """What a published model loses on a few documents."""
    published = CONFIG.models[wildcards.model].family in PUBLISHED
    return f"results/{wildcards.run}/gates/{wildcards.model}.{wildcards.codec}.json" if published else []


def installed_versions(wildcards):
    """Versions of the packages that are the corpus: another version is another corpus."""
    found = {}
    for name in CONFIG.corpora[wildcards.corpus].source.installed or []:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            refuse(f"corpora.{wildcards.corpus}.source.installed: no package '{name}' is installed in this environment")
    return found


# Of the figures of kind meaning, by the name of their table.
MEANING = {figure.table: name for name, figure in CONFIG.figures.items() if figure.kind == "meaning"}


def resampled_tokens(wildcards, suffix):
    """What the generator of a figure drew."""
    (name,) = CONFIG.certificate_names(CONFIG.figures[wildcards.figure].generator)
    return f"{RESULTS}/resampled/{wildcards.figure}.{name}.{suffix}"


def generator_corpus(wildcards):
    """Where the tokens are in whose contexts a figure's generator draws."""
    return f"{RESULTS}/tokens/{CONFIG.figures[wildcards.figure].generator.corpus}"


def of_evaluated(path):
    """A path of each model that a figure evaluates: `path` is called with wildcards run, model, codec and corpus (the model's)."""

    def paths(wildcards):
        for item in CONFIG.figures[wildcards.figure].evaluated:
            corpus = CONFIG.models[item.model].corpus
            yield path(SimpleNamespace(run=wildcards.run, model=item.model, codec=item.codec, corpus=corpus))

    return lambda wildcards: [name for found in paths(wildcards) for name in ([found] if isinstance(found, str) else found)]


def downstream_tokens(path):
    """A path of each corpus on which a figure measures downstream performance."""

    def paths(wildcards):
        figure = CONFIG.figures[wildcards.figure]
        sampling = CONFIG.scheme_of(figure.generator)
        return [path.format(run=wildcards.run, corpus=corpus, sampling=sampling) for corpus in figure.corpora]

    return paths


def entropy_records(wildcards):
    """The records whose entropy a figure shows."""
    (name,) = CONFIG.certificate_names(CONFIG.figures[wildcards.figure].entropy)
    return [f"{RESULTS}/risk/{name}/{part}.parquet" for part in PARTS]
