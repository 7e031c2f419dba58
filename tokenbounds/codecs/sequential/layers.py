"""Layers that a prediction of a model runs through, and groups of them whose second moments fit into memory
together.

Layers that read one input (query, key and value; gate and up) share its second moments, which the first of
them, the source, stands for::

    query   key   value   output   gate   up   down        layers, as they are used
    query <-------'       output   gate <-'    down        their sources
    [ query               output   gate ]    [ down ]      groups
"""

import dataclasses

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Layers:
    """Linear layers and embeddings of a model, by name of their weight.

    Attributes
    ----------
    head : str or None
        Weight of the head, which is not among the linear layers but may be an embedding.
    linear : dict of str to torch.nn.Module
        In the order of their (last) use.
    embeddings : dict of str to torch.nn.Module
    source : dict of str to str
        For each linear layer the one whose input it reads.
    inputs : dict of str to int
        Size of the input of each linear layer.
    used_once : bool
        Whether a prediction uses no linear layer twice.
    """

    head: str | None
    linear: dict
    embeddings: dict
    source: dict
    inputs: dict
    used_once: bool

    def groups(self, most_bytes):
        """Divide the sources, in their order, into groups whose second moments in float64 take so many bytes
        at most, or are those of one layer; one empty group where there is no linear layer."""
        groups: list[list[str]] = [[]]
        sources, size = {*self.source.values()}, 0
        for name in (name for name in self.linear if name in sources):
            own = 8 * self.inputs[name] ** 2
            if groups[-1] and size + own > most_bytes:
                groups.append([])
                size = 0
            groups[-1].append(name)
            size += own
        return groups


def find_layers(model):
    """Run a model on two tokens, and return the `Layers` that this runs through."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    head_weight = getattr(model, "head_weight", None)  # a model in a subspace has none
    layers = Layers(names.get(id(head_weight())) if head_weight else None, {}, {}, {}, {}, True)
    uses: list[str] = []
    last = (None, "")  # an input, held so that no other gets its memory, and the first layer that read it

    def hook(module, inputs, _):
        nonlocal last
        name = names.get(id(module.weight))
        if name is not None and isinstance(module, nn.Embedding):
            layers.embeddings[name] = module
        elif name not in (None, layers.head):
            x = inputs[0]
            if last[0] is not None and _is_same(last[0], x):
                layers.source[name] = last[1]
            else:
                layers.source.setdefault(name, name)
                last = (x, name)
            layers.inputs[name] = x.shape[-1]
            layers.linear.pop(name, None)
            layers.linear[name] = module
            uses.append(name)

    length = min(2, getattr(model, "longest", None) or 1)
    ids = torch.zeros(1, length, dtype=torch.int64, device=next(model.parameters()).device)
    kinds = [module for module in model.modules() if _is_linear(module) or isinstance(module, nn.Embedding)]
    with torch.no_grad():
        model.hidden(ids)  # a model may test itself on other tokens at first
        handles = [module.register_forward_hook(hook) for module in kinds]
        try:
            model.hidden(ids)
        finally:
            for handle in handles:
                handle.remove()
    return dataclasses.replace(layers, used_once=len(uses) == len(layers.linear))


def _is_linear(module):
    # transformers' Conv1D, of GPT-2, holds its weight as (inputs, outputs)
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _is_same(a, b):
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape
