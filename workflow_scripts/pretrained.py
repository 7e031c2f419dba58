"""Read a published model and write it in the format of trained ones: float32 safetensors and config.json."""

from pathlib import Path

from common import script

from tokenbounds.io.files import read_json
from tokenbounds.io.hub import downloaded_folder
from tokenbounds.io.provenance import provenance
from tokenbounds.models.folders import save_model
from tokenbounds.models.pretrained import read_folder


@script
def main(weights, files, index, section):
    """Write the model; `files` holds the download's manifest, or the config.json of a local folder."""
    folder, tokens = Path(downloaded_folder(files[0])), read_json(index)
    options = {"start_token": section["start_token"], "context_length": section.get("context_length")}
    net, config = read_folder(folder, vocab_size=tokens["vocab_size"], eot_id=tokens["eot_id"], **options)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    paths = sorted(filter(Path.is_file, folder.iterdir()))
    read = [path for path in paths if path.suffix in (".json", ".safetensors")]
    save_model(Path(weights).parent, net, config, provenance(section, read, parameters=parameters))
