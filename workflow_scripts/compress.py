"""Compress a published checkpoint to measure the message's length, and write the message's frame."""

from pathlib import Path

from common import script

from tokenbounds.codecs.archive import zip_message
from tokenbounds.codecs.sidecar import write_with_sidecar
from tokenbounds.corpus.tokenizers import load_tokenizer
from tokenbounds.io.hub import published_source


@script
def main(files, tokenizer, message, sidecar, section, options, contexts):
    """Write the frame; the sidecar names the folder of the files and the size from each compressor tried."""
    source = Path(published_source(files[0]))
    frame, record = zip_message(source, options, section, load_tokenizer(tokenizer), contexts)
    folder = str(source.parent if source.suffix == ".gguf" else source)
    config = {"model": section, "codec": options, "contexts": contexts}
    write_with_sidecar(message, sidecar, frame, config, folder=folder, **record)
