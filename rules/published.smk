"""Input functions of published models: their files, and what tells whether they are whole."""

from types import SimpleNamespace


def published_files(wildcards):
    """The files of a published model."""
    return files_of_model(wildcards.model)


def files_of_model(name):
    """The manifest of a published model's download, its GGUF file, or the files of its folder, config.json
    first."""
    model = CONFIG.models[name]
    if model.hub:
        return [f"resources/models/{name}/download.json"]
    if path := getattr(model, "local_path", None):
        return [path]
    weights = [
        path
        for pattern in ("*.safetensors", "*.safetensors.index.json")
        for path in matching_files(f"{model.folder}/{pattern}")
    ]
    return [f"{model.folder}/config.json", *weights]


def zipped_files(wildcards):
    """The published files that are the hypothesis itself, where the message only names them."""
    return published_files(wildcards) if CONFIG.codecs[wildcards.codec].made_by == "compress" else []


def sanity_check_file(wildcards):
    """The loss of a published model on a few documents."""
    if CONFIG.models[wildcards.model].published:
        return f"results/{wildcards.run}/sanity_checks/{wildcards.model}.{wildcards.codec}.json"
    return []


def base_sanity_check(wildcards):
    """The sanity check of the message that a smoothing head is trained for."""
    base = CONFIG.codecs[wildcards.codec].base
    return sanity_check_file(SimpleNamespace(run=wildcards.run, model=wildcards.model, codec=base))


def undamaged_weights(wildcards):
    """The weights before a codec changed them, where the sanity check compares with these."""
    changed = CONFIG.codecs[wildcards.codec].made_by != "compress"
    compared = changed and CONFIG.models[wildcards.model].sanity_damage
    return f"results/{wildcards.run}/models/{wildcards.model}/model.safetensors" if compared else []
