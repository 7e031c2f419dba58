"""Batches: every window may be drawn, and every micro-batch has its own random numbers."""

import numpy as np
import torch
from support.trainings import CPU, VOCAB, Store

from tokenbounds.training.batches import dropout_stream, sample


def test_sample_takes_every_window_and_shifts_by_one():
    store = Store(np.arange(VOCAB, dtype=np.uint16)[:20])
    ids, targets = sample(store, np.random.default_rng(0), 500, 16, CPU)
    assert ids.shape == targets.shape == (500, 16) and ids.dtype == torch.int64
    assert (targets == ids + 1).all()
    assert set(ids[:, 0].tolist()) == {0, 1, 2, 3}  # 20 tokens hold 4 windows of 17


def test_every_micro_batch_has_its_own_dropout():
    def mask(*names):
        with dropout_stream(CPU, 5, *names):
            return torch.dropout(torch.ones(64), 0.5, True)

    masks = [mask("dropout", "small", step, micro) for step in (1, 2) for micro in (0, 1)]
    assert len({tuple(m.tolist()) for m in masks}) == 4
    torch.rand(3)
    assert torch.equal(mask("dropout", "small", 2, 1), masks[3])
