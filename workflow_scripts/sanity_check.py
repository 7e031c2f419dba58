"""Score a published model on a few documents, to see that it was read correctly before hours of scoring."""

import logging
from pathlib import Path

import torch
from common import script

from tokenbounds.io.files import write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.scoring.sanity_check import loss_on_documents


@script
def main(message, index, sanity_check, model, codec, seed, published_loss, limits, undamaged, *, scoring):
    """Write the loss, and the published one if known; rule `score` refuses a bad model unless the
    configuration accepts it."""
    torch.set_num_threads(scoring.threads)
    options = {"name": f"{model}.{codec}", "device": scoring.device, **limits}
    options |= {"undamaged": Path(undamaged).parent} if undamaged else {}
    facts = loss_on_documents(message, Path(index).parent, seed=seed, **options)
    facts["published_bits_per_token"] = published_loss
    known = "" if published_loss is None else f", {published_loss:.2f} published for the model as released"
    logging.info("%s: %.2f bits per token%s", options["name"], facts["bits_per_token"], known)
    write_json(sanity_check, provenance({"seed": seed}, [message, index], **facts))
