"""Train a smoothing head on the model decoded from a message, and write the message of both."""

from pathlib import Path

import torch
from common import job

from tokenbounds.config import parse_config
from tokenbounds.files import provenance, sha256_file, write_json
from tokenbounds.head_training import head_of_message
from tokenbounds.hypothesis import with_head, write_message


def main(base, index, message, sidecar, *, name, codec, scoring, **options):
    """Write the message with the head behind the model's; the sidecar says what it is and how the objective fell."""
    torch.set_num_threads(scoring.threads)
    facts = {"batch_tokens": scoring.batch_tokens, "device": scoring.device}
    head, history = head_of_message(base, Path(index).parent, name=name, codec=codec, **options, **facts)
    decoded = write_message(message, with_head(Path(base).read_bytes(), head))
    size = Path(message).stat().st_size
    facts = {
        "message_bytes": size,
        "message_bits": 8 * size,
        "sha256": sha256_file(message),
        "section_bytes": decoded.section_bytes,
        "alpha_head": decoded.head.config["alpha_head"],
        "history": history,
    }
    write_json(sidecar, provenance({"codec": codec, **options}, [base, index], **facts))


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.input.message,
            snakemake.input.index,
            snakemake.output.message,
            snakemake.output.sidecar,
            name=f"{snakemake.wildcards.model}.{snakemake.wildcards.codec}",
            **snakemake.params,
            scoring=parse_config(snakemake.config).scoring,
        )
