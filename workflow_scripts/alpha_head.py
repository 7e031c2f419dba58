"""Train a smoothing head on the model decoded from a message, and write the message of both."""

from pathlib import Path

import torch
from common import script

from tokenbounds.codecs.decode import with_head
from tokenbounds.codecs.sidecar import write_with_sidecar
from tokenbounds.scoring.acceptance import check_passed
from tokenbounds.smoothing.from_message import head_of_message


@script
def main(base, index, sanity_check, message, sidecar, model, codec, options, objective, config):
    """Write the message with the head behind the model's; the sidecar says how the objective fell."""
    torch.set_num_threads(config.scoring.threads)
    if sanity_check:
        check_passed(sanity_check, config.accept_bad_models, Path(base).stem)
    facts = {"device": config.scoring.device, "name": f"{model}.{codec}"}
    head, history = head_of_message(base, Path(index).parent, codec=options, **objective, **facts)
    data = with_head(Path(base).read_bytes(), head)
    write_with_sidecar(
        message, sidecar, data, {"codec": options, **objective}, [base, index], history=history
    )
