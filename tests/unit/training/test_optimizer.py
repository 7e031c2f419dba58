"""The optimizer: weight decay on matrices, and the learning rate of each step."""

import pytest
from support.trainings import VOCAB

from tokenbounds.config.schema import Training
from tokenbounds.models.gpt import GPT
from tokenbounds.training.optimizer import adamw, learning_rate


def test_learning_rate():
    options = Training(steps=110, warmup=10, learning_rate=1.0, min_learning_rate=0.2)
    assert [learning_rate(options, step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert [learning_rate(options, step) for step in (60, 110)] == pytest.approx([0.6, 0.2])
    assert learning_rate(Training(steps=9, warmup=0, learning_rate=3.0), 9) == pytest.approx(0.3)
    assert learning_rate(Training(steps=10, warmup=10, learning_rate=1.0), 5) == pytest.approx(0.5)
    assert learning_rate(Training(steps=10, warmup=10, learning_rate=1.0), 10) == pytest.approx(1.0)


def test_weight_decay_on_matrices_only():
    net = GPT(
        {"layers": 2, "heads": 2, "width": 8, "context_length": 8, "bias": True, "positions": "learned"},
        VOCAB,
    )
    matrices, vectors = adamw(net, Training(steps=1, warmup=0, weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in matrices["params"]) and all(p.ndim == 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(net.parameters()))
    assert matrices["betas"] == (0.9, 0.95)
