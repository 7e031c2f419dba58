"""Input functions: files of each stage that depend on the configuration."""

from types import SimpleNamespace


def corpus_files(wildcards):
    """Files of the manifest: downloaded, made or local files (installed packages are followed by their
    version)."""
    source = CONFIG.corpora[wildcards.corpus].source
    if source.hub:
        return [f"resources/corpora/{wildcards.corpus}/download.json"]
    if source.made:
        return [f"{CONFIG.results}/tokens/{wildcards.corpus}/{source.made}"]
    paths = [path for pattern in source.files or [] for path in matching_files(pattern)]
    return [path for path in paths if not is_excluded(path, source.exclude)]


def antibody_files(wildcards):
    """The data units or files of families that a corpus of antibodies is read from."""
    source = CONFIG.corpora[wildcards.corpus].source.antibodies
    return [path for pattern in source.units or source.families or [] for path in matching_files(pattern)]


def of_shards(suffix):
    """Input function: the files with a suffix of all shards of a split, in order."""

    def paths(wildcards):
        shards = [f"{shard:05d}" for shard in range(CONFIG.corpora[wildcards.corpus].shards)]
        return expand(
            "results/{run}/tokens/{corpus}/{split}/{shard}.{suffix}", **wildcards, shard=shards, suffix=suffix
        )

    return paths


def tokenizer_files(wildcards):
    """The tokenizer's own files, where it is not trained here."""
    tokenizer = CONFIG.corpora[wildcards.corpus].tokenizer
    if tokenizer.hub:
        return [f"resources/tokenizers/{wildcards.corpus}/download.json"]
    if tokenizer.model:
        return files_of_model(tokenizer.model)
    if tokenizer.corpus:
        return [f"{CONFIG.results}/tokens/{tokenizer.corpus}/tokenizer"]
    if tokenizer.gpt2:
        return [f"{tokenizer.gpt2}/encoder.json", f"{tokenizer.gpt2}/vocab.bpe"]
    return [path for path in (tokenizer.file, tokenizer.sentencepiece) if path]


def of_model_corpus(path):
    """Input function: a path below the tokens of the corpus that a model is trained on."""
    return lambda wildcards: f"results/{wildcards.run}/tokens/{CONFIG.models[wildcards.model].corpus}/{path}"


training_tokens, validation_tokens = of_model_corpus("train/index.json"), of_model_corpus("val/index.json")
model_tokenizer = of_model_corpus("tokenizer")


def start_weights(wildcards):
    """The weights that a training starts from, where it does not start anew."""
    start = getattr(CONFIG.models[wildcards.model], "start_from", None)
    return f"results/{wildcards.run}/models/{start}/model.safetensors" if start else []


def calibration_tokens(wildcards):
    """The training tokens, for a codec that runs the model on them."""
    return training_tokens(wildcards) if calibrates(wildcards) else []


def base_message(wildcards):
    """The message of the model that a smoothing head is trained for."""
    return f"results/{wildcards.run}/messages/{wildcards.model}.{CONFIG.codecs[wildcards.codec].base}.bin"


def of_evaluated(path):
    """Input function: a path of each model that a figure evaluates; `path` takes wildcards run, model,
    codec and corpus (the model's)."""

    def paths(wildcards):
        for model, codec in CONFIG.figures[wildcards.figure].hypotheses():
            names = {
                "run": wildcards.run,
                "model": model,
                "codec": codec,
                "corpus": CONFIG.models[model].corpus,
            }
            yield path.format(**names) if isinstance(path, str) else path(SimpleNamespace(**names))

    return lambda wildcards: [
        name for found in paths(wildcards) for name in ([found] if isinstance(found, str) else found)
    ]


def of_downstream(path):
    """Input function: a path of each corpus on which a figure measures downstream performance."""
    return lambda wildcards: [
        path.format(run=wildcards.run, corpus=corpus) for corpus in CONFIG.figures[wildcards.figure].corpora
    ]


def of_generator(path):
    """Input function: a path of the generator of a figure, by its certificate's name and its corpus."""

    def paths(wildcards):
        (certificate,) = CONFIG.certificate_names(CONFIG.figures[wildcards.figure].generator)
        corpus = CONFIG.figures[wildcards.figure].generator.corpus
        return path.format(run=wildcards.run, figure=wildcards.figure, certificate=certificate, corpus=corpus)

    return paths


def table_inputs(wildcards):
    """Files that a table is made from, by name."""
    return CONFIG.every_table[wildcards.table].inputs(CONFIG)


def figure_inputs(wildcards):
    """Files that a figure is made from, by name."""
    return CONFIG.figures[wildcards.figure].inputs(CONFIG, wildcards.figure)
