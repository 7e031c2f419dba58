"""Measure what a compressor makes of a published checkpoint, and write the frame of its message."""

from common import job, published_folder

from tokenbounds.files import provenance, read_json, sha256_file, write_json
from tokenbounds.hypothesis import complexity_bits, write_message
from tokenbounds.published import zip_message


def main(files, index, message, sidecar, *, model, codec, contexts):
    """Write the frame; the sidecar says where the files are, and what each compressor that was tried made of them."""
    folder = published_folder(files, model)
    tokens = {key: read_json(index)[key] for key in ("vocab_size", "eot_id")}
    frame, record = zip_message(folder, codec, model, tokens, contexts)
    decoded = write_message(message, frame)
    bits = complexity_bits(message, decoded)
    facts = {"message_bytes": bits // 8, "message_bits": bits, "sha256": sha256_file(message), "folder": folder, **record}
    write_json(sidecar, provenance({"model": model, "codec": codec, "contexts": contexts}, **facts))


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.input.files[0],
            snakemake.input.index,
            snakemake.output.message,
            snakemake.output.sidecar,
            **snakemake.params,
        )
