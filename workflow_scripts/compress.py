"""Compress a published checkpoint to measure the message's length, and write the message's frame."""

from common import script

from tokenbounds.codecs.archive import zip_message
from tokenbounds.codecs.sidecar import write_with_sidecar
from tokenbounds.io.files import read_json
from tokenbounds.io.hub import downloaded_folder


@script
def main(files, index, message, sidecar, section, options, contexts):
    """Write the frame; the sidecar names the folder of the files and the size from each compressor tried."""
    folder, tokens = downloaded_folder(files[0]), read_json(index)
    tokens = {key: tokens[key] for key in ("vocab_size", "eot_id")}
    frame, record = zip_message(folder, options, section, tokens, contexts)
    config = {"model": section, "codec": options, "contexts": contexts}
    write_with_sidecar(message, sidecar, frame, config, folder=folder, **record)
