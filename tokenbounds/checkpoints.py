"""Checkpoints of a training: whole or passed over, and enough to continue exactly."""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, read_json, sha256_file, write_json

log = logging.getLogger(__name__)

_KEPT = 2
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Checkpoints:
    """The last two checkpoints of one training: tensors in safetensors, the rest in a JSON file that names them and their sha256.

    The JSON file is written last, so a checkpoint is there when it is; one whose tensors are not those it names is passed over.
    """

    def __init__(self, folder, fingerprint):
        self.folder, self.fingerprint = Path(folder), fingerprint

    def save(self, net, optimizer, state):
        """Write weights, AdamW's moments and `state` (a dict for JSON, with ``step``)."""
        tensors = {}
        for name, parameter in net.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach().cpu()
            for moment in _MOMENTS:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu()
        path = self.folder / f"step-{state['step']:09d}.safetensors"
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
        write_json(path.with_suffix(".json"), {"fingerprint": self.fingerprint, "sha256": sha256_file(path), "state": state})
        kept = [found for found in self._found() if found.stem <= path.stem][:_KEPT]
        for other in set(self._found()) - set(kept):  # older ones, and damaged ones that were passed over
            other.unlink()
            other.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self, net, optimizer):
        """Put the last whole checkpoint into `net` and `optimizer` and return its state; None if there is none.

        Raises
        ------
        InputError
            It is a checkpoint of another training.
        """
        for path in self._found():
            try:
                content = read_json(path)
                fingerprint, state, tensors_path = content["fingerprint"], content["state"], path.with_suffix(".safetensors")
                whole = sha256_file(tensors_path) == content["sha256"]
                tensors = load_file(tensors_path) if whole else {}
            except (InputError, SafetensorError, KeyError, TypeError) as error:
                log.warning("%s: not a whole checkpoint (%s), passed over", path, error)
                continue
            if not whole:
                log.warning("%s: not the tensors that %s names, checkpoint passed over", tensors_path, path.name)
                continue
            if fingerprint != self.fingerprint:
                raise InputError(f"{path}: checkpoint of another training ({fingerprint}), expected {self.fingerprint}")
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    parameter.copy_(tensors[f"weight.{name}"])
                    moments = {key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"]) for key in _MOMENTS}
                    optimizer.state[parameter] = {"step": torch.tensor(float(state["step"]), device=parameter.device), **moments}
            log.info("%s: continuing after step %d", path, state["step"])
            return state
        return None

    def remove(self):
        """Remove every checkpoint, and what a killed process left of one."""
        for pattern in ("step-*", ".step-*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _found(self):
        return sorted(self.folder.glob("step-*.json"), reverse=True)
