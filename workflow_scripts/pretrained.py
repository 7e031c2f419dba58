"""Read a published model and write it as the other models are: float32 safetensors and its hypothesis' configuration."""

from pathlib import Path

from common import job, published_folder

from tokenbounds.files import provenance, read_json
from tokenbounds.models import save_model
from tokenbounds.models.causal import read_folder


def main(weights, files, index, model):
    """Write the model to the folder of `weights`; `files` is the download's manifest, or the config.json of a local folder."""
    folder = Path(published_folder(files, model))
    tokens = read_json(index)
    options = {"start_token": model["start_token"], "context_length": model.get("context_length")}
    net, config = read_folder(folder, vocab_size=tokens["vocab_size"], eot_id=tokens["eot_id"], **options)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    read = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors") and path.is_file()]
    save_model(Path(weights).parent, net, config, provenance(model, read, parameters=parameters))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.weights, snakemake.input.files[0], snakemake.input.index, **snakemake.params)
