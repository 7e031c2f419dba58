"""Code one model as a message, decode it again, and write how long it is."""

from pathlib import Path

import torch
from common import job

from tokenbounds.coding import code_model
from tokenbounds.config import parse_config
from tokenbounds.files import provenance, sha256_file, write_json
from tokenbounds.hypothesis import write_message


def main(weights, message, sidecar, codec, contexts, seed, tokens, scoring):
    """Write the message; the sidecar says what its bytes are spent on, and what tuning or calibration did."""
    torch.set_num_threads(scoring.threads)
    folder = Path(weights).parent
    tokens = Path(tokens).parent if tokens else None
    data, report = code_model(folder, codec, contexts, name=folder.name, seed=seed, tokens=tokens, device=scoring.device)
    decoded = write_message(message, data)
    size = Path(message).stat().st_size
    parameters = sum(tensor.size for tensor in decoded.tensors.values())
    facts = {
        "message_bytes": size,
        "message_bits": 8 * size,
        "sha256": sha256_file(message),
        "parameters": parameters,
        "bits_per_parameter": 8 * size / parameters,
        "section_bytes": decoded.section_bytes,
        **report,
    }
    write_json(sidecar, provenance({"codec": decoded.codec, "contexts": contexts}, [weights, folder / "config.json"], **facts))


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.input.weights,
            snakemake.output.message,
            snakemake.output.sidecar,
            **snakemake.params,
            tokens=snakemake.input.get("tokens"),
            scoring=parse_config(snakemake.config).scoring,
        )
