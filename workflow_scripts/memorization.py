"""Measure a model's accuracy on integers of its training sequences at each number of quantization levels."""

from pathlib import Path

import torch
from common import script

from tokenbounds.experiments.memorization import write_accuracies


@script
def main(weights, index, tokenizer, accuracies, levels, method, arithmetic, *, scoring):
    """Write the csv and its sidecar."""
    torch.set_num_threads(scoring.threads)
    folder = Path(weights).parent
    options = {"levels": levels, "method": method, "arithmetic": arithmetic, "device": scoring.device}
    write_accuracies(folder, Path(index).parent, tokenizer, accuracies, name=folder.name, **options)
