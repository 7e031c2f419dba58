"""The optimizer of a training and its learning rate."""

import math

import torch


def adamw(net, options):
    """Make an AdamW optimizer with weight decay on matrices only.

    Parameters
    ----------
    net : torch.nn.Module
    options : tokenbounds.config.schema.Training

    Returns
    -------
    torch.optim.AdamW
        The fused implementation, the fastest on a CPU and on a GPU.
    """
    parameters = list(net.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, options.beta2), fused=True)


def learning_rate(options, step):
    """Compute the learning rate of a step: a linear warm-up, then a cosine.

    Parameters
    ----------
    options : tokenbounds.config.schema.Training
    step : int
        From 1; the peak is at step `warmup`, `min_learning_rate` at the last step.

    Returns
    -------
    float
    """
    peak, least = options.learning_rate, options.min_learning_rate
    least = peak / 10 if least is None else least
    if step <= options.warmup:
        return peak * step / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2
