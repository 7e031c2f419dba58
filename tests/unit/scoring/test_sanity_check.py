"""The sanity check of published models."""

import math

import numpy as np
import pytest
import torch
from support.published import write_published
from support.quip_checkpoints import CONFIG, random_tensors, write_checkpoint
from support.stores import random_documents, write_store

from tokenbounds.codecs.decode import read_model
from tokenbounds.errors import InputError
from tokenbounds.io.files import write_json
from tokenbounds.scoring.acceptance import check_passed
from tokenbounds.scoring.sanity_check import loss_on_documents


def test_the_sanity_check(tmp_path):
    folder = write_checkpoint(tmp_path / "model", shards=2)
    store = write_store(
        tmp_path / "tokens", random_documents(np.random.default_rng(1), 40, vocab_size=30), vocab_size=30
    )
    options = {"name": "model.gzip", "seed": 1, "device": "cpu"}
    path, _, _ = write_published(tmp_path, folder)
    facts = loss_on_documents(path, store.folder, **options)
    assert (
        facts["bad"]
        and facts["bits_per_token"] > facts["limit"] == facts["random_guess"] / 3 == math.log2(30) / 3
    )
    assert (
        facts
        == loss_on_documents(path, store.folder, **options)
        != loss_on_documents(path, store.folder, **{**options, "seed": 2})
    )
    check = tmp_path / "check.json"
    write_json(check, facts)
    with pytest.raises(
        InputError,
        match=r"model\.gzip: \d+\.\d\d bits per token on 20 documents; expected at most 1\.64, a third",
    ):
        check_passed(check, False, "model.gzip")
    check_passed(check, True, "model.gzip")
    write_json(check, {**facts, "published_bits_per_token": 3.061})
    with pytest.raises(InputError, match=r"20 documents \(3\.06 published for the model as released\); e"):
        check_passed(check, False, "model.gzip")
    write_json(check, {**facts, "bad": False})
    check_passed(check, False, "model.gzip")


def test_a_model_that_predicts_its_documents_passes_the_sanity_check(tmp_path):
    """Documents of one token, and a head that always predicts the token after this one."""
    tensors = random_tensors(CONFIG)
    head = torch.zeros_like(tensors["lm_head.weight"])
    store = write_store(tmp_path / "tokens", [[5]] * 30, vocab_size=30)
    folder = write_checkpoint(tmp_path / "model", tensors={**tensors, "lm_head.weight": head})
    path, _, _ = write_published(tmp_path, folder)
    # states from which 5 and then 0 are to be predicted
    states = read_model(path)[1].hidden(torch.tensor([[0, 5]]))[0]
    solved = torch.linalg.lstsq(states, 20 * torch.eye(2)).solution.T  # logits 20 and 0 in either state
    head[5], head[0] = solved.half()
    path, _, _ = write_published(
        tmp_path / "again", write_checkpoint(tmp_path / "good", tensors={**tensors, "lm_head.weight": head})
    )
    facts = loss_on_documents(path, store.folder, name="good", seed=1, device="cpu")
    assert not facts["bad"] and facts["bits_per_token"] < 0.1 and facts["tokens"] == 40
