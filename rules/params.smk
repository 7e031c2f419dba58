"""Params and resources of each stage that depend on the configuration."""

from glob import escape
from importlib.metadata import PackageNotFoundError, version

from tokenbounds.plugins import modules


def installed_versions(wildcards):
    """Versions of the packages that are the corpus: another version is another corpus."""
    found = {}
    for name in CONFIG.corpora[wildcards.corpus].source.installed or []:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            key = f"corpora.{wildcards.corpus}.source.installed"
            refuse(f"{key}: no package '{name}' is installed in this environment")
    return found


def training_threads(wildcards):
    """CPU threads of all processes of a training."""
    training = CONFIG.models[wildcards.model].training
    return training.threads * training.processes


def training_memory(wildcards, attempt):
    """Memory of all processes of a training in MB, twice as much from the second attempt on."""
    return 8000 * CONFIG.models[wildcards.model].training.processes * min(attempt, 2)


def gguf_file(wildcards):
    """The one file to download of a model in a GGUF file, as a list; None for other models."""
    file = getattr(CONFIG.models[wildcards.model], "file", None)
    return [escape(file)] if file else None


def model_contexts(wildcards):
    """How predictions of a model are computed, which its message holds."""
    return CONFIG.contexts(wildcards.model)


def calibrates(wildcards):
    """Whether a codec runs the model on training tokens, as a number of GPUs."""
    return int(CONFIG.codecs[wildcards.codec].needs_tokens)


def message_memory(wildcards):
    """Memory in MB: a checkpoint that was published dense is loaded whole, one of QuIP# never is."""
    return {"pretrained": 32000, "download_model": 4000}.get(CONFIG.models[wildcards.model].made_by, 8000)


# A smoothing head minimises the bound of the certificate that it is for.
HEAD_OBJECTIVE = {
    "delta": CONFIG.delta,
    "n": CONFIG.sampling.n,
    "scheme": CONFIG.context(CONFIG.sampling.mode),
    "choices_bits": CONFIG.choices_bits(),
    "bounds_settings": slice_of(CONFIG.bounds, exclude={"candidates", "attempt", "top_k"}),
    "seed": CONFIG.seed,
}


def scoring_minutes(wildcards):
    """Time limit: a published model may have 70 billion parameters."""
    return (24 if CONFIG.models[wildcards.model].published else 8) * 60


def bounds_settings(w):
    """The `bounds` section of a certificate."""
    return CONFIG.bounds_settings(f"{w.model}.{w.codec}.{w.corpus}.{w.sampling}")


# Of bounds that other packages add: a change of theirs makes certificates stale too.
METHOD_CODE = modules("tokenbounds.methods")


def published_loss(wildcards):
    """Published loss of a model in bits per token, None if it is not known."""
    expected = CONFIG.models[wildcards.model].expected
    return expected and expected.bits_per_token


def generator_scheme(wildcards):
    """Name of the sampling scheme of a figure's generator."""
    return CONFIG.scheme_of(CONFIG.figures[wildcards.figure].generator)


def evaluated(wildcards):
    """(model, codec) of each model that a figure evaluates."""
    return CONFIG.figures[wildcards.figure].hypotheses()


def evaluated_names(wildcards):
    """``model.codec`` of each model that a figure evaluates."""
    return [f"{model}.{codec}" for model, codec in evaluated(wildcards)]


DOWNSTREAM = one_of(name for name, figure in CONFIG.figures.items() if figure.hypotheses())


def table_spec(wildcards):
    """All else that decides what a table shows."""
    return CONFIG.every_table[wildcards.table].spec(CONFIG)


def table_maker(wildcards):
    """The function that makes a table."""
    return CONFIG.every_table[wildcards.table].implementation


def table_code(wildcards):
    """Fingerprint of a table's code, and of the hypotheses that it runs."""
    table = CONFIG.every_table[wildcards.table]
    return code(table.implementation, hypotheses=lambda _: table.hypotheses())(wildcards)


def figure_spec(wildcards):
    """All else that decides what a figure shows."""
    return CONFIG.figures[wildcards.figure].spec(CONFIG)


def figure_code(wildcards):
    """Fingerprint of a figure's code."""
    return fingerprint(CONFIG.figures[wildcards.figure].implementation)
