"""Code one model as a message, decode it again, and write the message with its length."""

from pathlib import Path

import torch
from common import script

from tokenbounds.codecs.encode import code_model
from tokenbounds.codecs.sidecar import write_with_sidecar


@script
def main(weights, message, sidecar, options, contexts, seed, tokens, *, scoring):
    """Write the message and its sidecar; the training `tokens` are for tuning or calibration."""
    torch.set_num_threads(scoring.threads)
    folder = Path(weights).parent
    store = Path(tokens).parent if tokens else None
    data, report = code_model(
        folder, options, contexts, name=folder.name, seed=seed, tokens=store, device=scoring.device
    )
    config = {"codec": options, "contexts": contexts}
    write_with_sidecar(message, sidecar, data, config, [weights, folder / "config.json"], **report)
