"""Checkpoints: damaged ones are passed over, and a continued training ends in the same bytes."""

import json
import logging
from pathlib import Path

import pytest
import torch
from support.trainings import EVERY_STEP, Crash, CrashingStore, chain, model, results, train_in

from tokenbounds import devices
from tokenbounds.errors import InputError


def crashed(folder, reads, **options):
    described = model(checkpoint_minutes=EVERY_STEP, accumulation=2, architecture={"dropout": 0.1}, **options)
    with pytest.raises(Crash):
        train_in(folder, described, CrashingStore(chain(3000), reads))
    return described


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    crashed(tmp_path, reads=7 * 4 + 1)  # 4 windows a step
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [f"step-{step:09d}.{suffix}" for step in (6, 7) for suffix in ("json", "safetensors")]


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_checkpoint_is_passed_over(tmp_path, caplog, suffix, damage):
    described = crashed(tmp_path / "crashed", reads=7 * 4)
    train_in(tmp_path / "whole", described)
    damage(tmp_path / f"crashed/checkpoints/step-000000007.{suffix}")
    if (suffix, damage) == ("json", flip):  # of what its JSON text says, the sha256 of the tensors is checked
        path = tmp_path / "crashed/checkpoints/step-000000007.json"
        content = json.loads(path.with_name("step-000000006.json").read_text())
        path.write_text(json.dumps({**content, "sha256": "0" * 64}))
    with caplog.at_level(logging.INFO):
        train_in(tmp_path / "crashed", described)
    assert "continuing after step 6" in caplog.text
    assert ("passed over" in caplog.text) == ((suffix, damage) != ("json", Path.unlink))
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")


def test_no_whole_checkpoint_means_from_the_start(tmp_path, caplog):
    described = crashed(tmp_path / "crashed", reads=5 * 4)
    for path in (tmp_path / "crashed/checkpoints").glob("*.safetensors"):
        cut(path)
    train_in(tmp_path / "crashed", described)
    train_in(tmp_path / "whole", described)
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")
    assert caplog.text.count("passed over") == 2


def test_checkpoint_of_another_training(tmp_path):
    described = crashed(tmp_path, reads=5 * 4)
    with pytest.raises(InputError, match=r"step-000000005\.json: checkpoint of another training"):
        train_in(tmp_path, described, seed=6)


def test_how_often_a_checkpoint_is_written_may_change(tmp_path, caplog):
    described = crashed(tmp_path / "crashed", reads=5 * 4)
    train_in(tmp_path / "whole", described)
    described["training"]["checkpoint_minutes"] = 7.0
    with caplog.at_level(logging.INFO):
        train_in(tmp_path / "crashed", described)
    assert "continuing after step 5" in caplog.text
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")


def test_the_dtype_of_a_continued_training_is_not_measured_again(tmp_path, monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: 9.0}
    monkeypatch.setattr(devices, "matmul_seconds", lambda device, dtype: seconds[dtype])
    described = crashed(tmp_path / "crashed", reads=5 * 4, dtype="auto")
    train_in(tmp_path / "whole", described)
    seconds[torch.bfloat16] = 0.1
    train_in(tmp_path / "crashed", described)
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")
