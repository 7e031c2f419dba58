"""Read a published model and write it in the format of trained ones: float32 safetensors and config.json."""

from pathlib import Path

from common import script

from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.io.hub import published_source
from tokenbounds.io.provenance import provenance
from tokenbounds.models.folders import save_model
from tokenbounds.models.published import published_inputs, read_published


@script
def main(weights, files, tokenizer, section):
    """Write the model; `files` holds the download's manifest, or the files of a local folder."""
    source = published_source(files[0])
    net, config = read_published(source, section, load_tokenizer(tokenizer))
    facts = {"parameters": sum(parameter.numel() for parameter in net.parameters())}
    save_model(Path(weights).parent, net, config, provenance(section, published_inputs(source), **facts))
