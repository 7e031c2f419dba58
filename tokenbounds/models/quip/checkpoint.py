"""QuIP# checkpoints in folders: which files belong to one, and dense weights from them, a layer at a time."""

from pathlib import Path

import torch

from tokenbounds.config.schema.base import checked
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json
from tokenbounds.models.folders import CONFIG_FILE, WEIGHTS_FILE
from tokenbounds.models.quip.config import NORMS, QuipConfig, linear_layout
from tokenbounds.models.quip.linear import check_layout, dequantize
from tokenbounds.models.registry import check_finite

INDEX_FILE = "model.safetensors.index.json"


class QuipCheckpoint:
    """A QuIP# checkpoint in a folder, decoded a layer at a time.

    Its weights are the files that ``model.safetensors.index.json`` names, or without an index
    ``model.safetensors``: a folder may also hold shards of an older version. Names, types and shapes of all
    tensors are checked against config.json before any is read.

    Parameters
    ----------
    folder : path
    resident : bool
        Whether the packed tensors of the layers stay in memory, on the device that last asked for them;
        otherwise they are read from disk each time.

    Attributes
    ----------
    config : QuipConfig
    files : list of Path
        All files that are read: the configuration, the index if any, the weights.

    Raises
    ------
    InputError
        A file is absent, torn or no safetensors file; the configuration is not that of a QuIP# LLaMA, or
        needs another decoder; a tensor is missing, unexpected, in another shard than the index says, or of
        another type or shape.
    """

    def __init__(self, folder, resident=False):
        folder = Path(folder)
        self.config = checked(QuipConfig, read_json(folder / CONFIG_FILE), folder / CONFIG_FILE)
        self.resident, self._kept = resident, {}
        index = folder / INDEX_FILE
        shards = _read_index(index) if index.exists() else None
        names = sorted(set(shards.values())) if shards else [WEIGHTS_FILE]
        self.files = [folder / CONFIG_FILE, *([index] if shards else []), *(folder / name for name in names)]
        self._handle_of, stored = {}, {}
        for name in names:
            handle = _open(folder / name)
            present = set(handle.keys())
            wanted = {tensor for tensor, shard in shards.items() if shard == name} if shards else present
            if wanted - present:
                raise InputError(
                    f"{folder / name}: tensor '{min(wanted - present)}' is missing, "
                    f"expected there by {index.name}"
                )
            for tensor in wanted:
                entry = handle.get_slice(tensor)
                self._handle_of[tensor] = handle
                stored[tensor] = (entry.get_dtype(), tuple(entry.get_shape()))
        self._listing = index if shards else folder / WEIGHTS_FILE
        check_layout(stored, self.config.layout(), self._listing)

    def tensor(self, name):
        """Read a stored tensor, unchanged, on the CPU."""
        return self._handle_of[name].get_tensor(name)

    def weights(self, name, device="cpu"):
        """Read a float16 tensor as float32 on `device`; an `InputError` if it is not finite."""
        tensor = self.tensor(name).to(device, torch.float32)
        check_finite(self._listing, name, tensor)
        return tensor

    def layer(self, i, device="cpu"):
        """Decode decoder layer `i` to dense float32 weights, in the layout of a Hugging Face LLaMA.

        Parameters
        ----------
        i : int
            Number of the layer; an `IndexError` if there is none.
        device : torch.device or str
            Device that decodes, and that holds the result.

        Returns
        -------
        dict of str to Tensor
            q_proj, k_proj, v_proj, o_proj, up_proj, gate_proj, down_proj (out, in); input_layernorm,
            post_attention_layernorm (width,).
        """
        prefix = f"model.layers.{range(self.config.num_hidden_layers)[i]}"
        dense = {norm: self.weights(f"{prefix}.{norm}.weight", device) for norm in NORMS}
        params = self.config.quip_params
        for linear in self.config.linears():
            name = f"{prefix}.{linear.name}"
            parts = linear_layout(params, linear.outputs, linear.inputs, linear.blocks)
            packed = {part: self._packed(f"{name}.{part}", device) for part in parts}
            weight = dequantize(packed, params, linear.blocks, f"{self._listing}: {name}")
            dense.update(zip(linear.names, weight.split(linear.sizes), strict=True))
        return dense

    def _packed(self, name, device):
        if not self.resident:
            return self.tensor(name).to(device)
        kept = self._kept.get(name)
        # A copy: a tensor read from a file can be a view of it, whose pages the system may drop.
        self._kept[name] = self.tensor(name).to(device, copy=True) if kept is None else kept.to(device)
        return self._kept[name]


def _read_index(path):
    """Read the file name of each tensor (dict) from an index file."""
    index = read_json(path)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{path}: no weight_map, expected a file name for each tensor")
    for name in shards.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or Path(name).name != name:
            raise InputError(f"{path}: {name!r} is not the name of a .safetensors file in the same folder")
    return shards


def _open(path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, "pt")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None
