"""Models in the arithmetic in which they predict (docs/theory.md, section 13).

A model is built and checked in float32. `cast` rounds its weights once, before its first prediction;
activations then have the type of the weights. Tables of rotary positions stay in float32, and so does a
smoothing head, whose weights are computed in float64. A Markov chain has counts in place of weights: its
probabilities are float64 numbers, handed on as float32 logits, whatever the arithmetic.
"""

import torch

from tokenbounds.devices import torch_dtype


def cast(model, arithmetic):
    """Round a model's weights to the type of an arithmetic.

    Parameters
    ----------
    model : torch.nn.Module
        Of any family, in float32 and evaluation mode; changed in place.
    arithmetic : dict
        Fields of `tokenbounds.config.schema.Arithmetic`.

    Returns
    -------
    torch.nn.Module
        `model`.

    Raises
    ------
    InputError
        The model is not causal: `tokenbounds.models.transformers.CausalLM` is tested in float32 first.
    """
    dtype = torch_dtype(arithmetic["dtype"])
    if dtype == torch.float32:
        return model
    if hasattr(model, "check_predictions"):
        model.check_predictions()  # within the rounding of float32
    frozen = model.frozen() if hasattr(model, "frozen") else ()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *frozen]:
            if tensor.is_floating_point() and not name.startswith("alpha_head."):
                tensor.data = tensor.data.to(dtype)
    return model
