"""Code one model as a message, decode it again, and write how long it is."""

from pathlib import Path

from common import job

from tokenbounds.files import provenance, sha256_file, write_json
from tokenbounds.hypothesis import encode_model, write_message


def main(weights, message, sidecar, codec, contexts):
    """Write the message; the sidecar says what its bytes are spent on."""
    folder = Path(weights).parent
    decoded = write_message(message, encode_model(folder, codec, contexts))
    size = Path(message).stat().st_size
    parameters = sum(tensor.size for tensor in decoded.tensors.values())
    facts = {
        "message_bytes": size,
        "message_bits": 8 * size,
        "sha256": sha256_file(message),
        "parameters": parameters,
        "bits_per_parameter": 8 * size / parameters,
        "section_bytes": decoded.section_bytes,
    }
    write_json(sidecar, provenance({"codec": decoded.codec, "contexts": contexts}, [weights, folder / "config.json"], **facts))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.input.weights, snakemake.output.message, snakemake.output.sidecar, **snakemake.params)
