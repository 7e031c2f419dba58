"""Checkpoints of a training: whole or passed over, and enough to continue exactly."""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, read_json, sha256_file, write_json

log = logging.getLogger(__name__)
_KEPT = 2
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Checkpoints:
    """The last two checkpoints of one training: tensors in safetensors, the rest in JSON.

    The JSON file names the tensors' sha256 and is written last, so a checkpoint exists when it does; one
    whose tensors have another sha256 is passed over.

    Parameters
    ----------
    folder : path
        Of this training alone.
    fingerprint : str
        Identifies the training.
    """

    def __init__(self, folder, fingerprint):
        self.folder, self.fingerprint = Path(folder), fingerprint

    def save(self, net, optimizer, state):
        """Write a checkpoint, and remove those that are too old.

        Parameters
        ----------
        net : torch.nn.Module
        optimizer : torch.optim.AdamW
            Its moments are written with the weights.
        state : dict
            JSON data, with ``step``.
        """
        tensors = {}
        for name, parameter in net.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach().cpu()
            for moment in _MOMENTS:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu()
        path = self.folder / f"step-{state['step']:09d}.safetensors"
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
        content = {"fingerprint": self.fingerprint, "sha256": sha256_file(path), "state": state}
        write_json(path.with_suffix(".json"), content)
        kept = [other for other in self._newest_first() if other.stem <= path.stem][:_KEPT]
        for other in set(self._newest_first()) - set(
            kept
        ):  # older ones, and damaged ones that were passed over
            other.unlink()
            other.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self, net, optimizer):
        """Put the last whole checkpoint into a model and its optimizer.

        Parameters
        ----------
        net : torch.nn.Module
        optimizer : torch.optim.AdamW

        Returns
        -------
        dict or None
            The state that was saved; None if there is no whole checkpoint.

        Raises
        ------
        InputError
            It is a checkpoint of another training.
        """
        for path in self._newest_first():
            tensors_path = path.with_suffix(".safetensors")
            try:
                content = read_json(path)
                fingerprint, state = content["fingerprint"], content["state"]
                whole = sha256_file(tensors_path) == content["sha256"]
                tensors = load_file(tensors_path) if whole else {}
            except (InputError, SafetensorError, KeyError, TypeError) as error:
                log.warning("%s: not a whole checkpoint (%s), passed over", path, error)
                continue
            if not whole:
                log.warning(
                    "%s: not the tensors that %s names, checkpoint passed over", tensors_path, path.name
                )
                continue
            if fingerprint != self.fingerprint:
                problem = f"checkpoint of another training ({fingerprint}), expected {self.fingerprint}"
                raise InputError(f"{path}: {problem}")
            _restore(net, optimizer, tensors, state["step"])
            log.info("%s: continuing after step %d", path, state["step"])
            return state
        return None

    def remove(self):
        """Remove every checkpoint, and the parts of one that a killed process left."""
        for pattern in ("step-*", ".step-*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _newest_first(self):
        return sorted(self.folder.glob("step-*.json"), reverse=True)


@torch.no_grad()
def _restore(net, optimizer, tensors, step):
    for name, parameter in net.named_parameters():
        parameter.copy_(tensors[f"weight.{name}"])
        moments = {key: torch.empty_like(parameter).copy_(tensors[f"{key}.{name}"]) for key in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **moments}
