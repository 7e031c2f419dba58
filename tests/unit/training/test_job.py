"""The job of one training: its specification, and the folder of its checkpoints."""

import shutil
from pathlib import Path

import pytest

from tokenbounds.io.files import write_json
from tokenbounds.training import job


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Call `train_model` with something changed; return the specification that it would train."""
    for split in ("train", "val"):
        write_json(tmp_path / f"tokens/{split}/index.json", {"shards": [{"sha256": split}]})
    specifications = []

    def run(spec):
        specifications.append(spec)
        write_json(Path(spec["checkpoint_dir"]) / "step-1.json", {})

    monkeypatch.setattr(job, "run", run)

    def call(seed=1, checkpoint_minutes=10.0, gpus=None, code="0123456789abcdef", start=None, **training):
        job.train_model(
            tmp_path / "models/gpt/model.safetensors",
            tmp_path / "tokens/train/index.json",
            tmp_path / "tokens/val/index.json",
            start or [],
            section={"training": {"steps": 3, **training}},
            seed=seed,
            code=code,
            gpus=gpus,
            checkpoint_minutes=checkpoint_minutes,
        )
        return specifications[-1]

    return call


def test_checkpoints_are_those_of_the_same_tokens_code_and_configuration(trained, tmp_path):
    spec = trained()
    assert spec["model"] == {"training": {"steps": 3, "checkpoint_minutes": 10.0}} and spec["name"] == "gpt"
    folders = [spec["checkpoint_dir"], trained(seed=2)["checkpoint_dir"]]
    other = trained(checkpoint_minutes=1.0)
    assert other["checkpoint_dir"] == folders[0] and other["model"]["training"]["checkpoint_minutes"] == 1.0
    for change in ("tokens/train/index.json", "tokens/val/index.json"):
        write_json(tmp_path / change, {"shards": [{"sha256": "other"}]})
        folders.append(trained()["checkpoint_dir"])
    folders.append(trained(code="fedcba9876543210")["checkpoint_dir"])
    assert len(set(folders)) == 5


def test_checkpoints_are_those_of_the_same_start(trained, tmp_path):
    start = tmp_path / "models/base/model.safetensors"
    folders = []
    for weights in ("one", "two"):
        write_json(start, weights)
        spec = trained(start=start)
        assert spec["start_from"] == str(start.parent)
        folders.append(spec["checkpoint_dir"])
    spec = trained()
    assert spec["start_from"] is None and len({*folders, spec["checkpoint_dir"]}) == 3


def test_no_more_training_processes_than_gpus_given(trained):
    """A profile for one GPU runs a configuration for four; without a GPU, as on a site that asks by gres, the
    configuration decides."""
    for gpus, processes in ((1, 1), (4, 4), (8, 4), (0, 4), (None, 4)):
        assert trained(gpus=gpus, processes=4)["model"]["training"]["processes"] == processes


def test_no_checkpoint_of_a_finished_model_is_kept(trained, tmp_path):
    """Nor the folder, but those of another model, whatever its name."""
    write_json(tmp_path / "checkpoints/gpt/0123456789abcdef/step-1.json", {})
    write_json(tmp_path / "checkpoints/gpt-2/0123456789abcdef/step-1.json", {})
    trained()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["gpt-2"]
    shutil.rmtree(tmp_path / "checkpoints/gpt-2")
    trained()
    assert not (tmp_path / "checkpoints").exists()
