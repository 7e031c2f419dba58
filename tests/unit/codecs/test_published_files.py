"""Messages of published files: the files that are read are those that are named, and no others."""

import copy
import os
import re
import shutil

import pytest
from support.messages import check_model_refused, forge
from support.published import CONTEXTS, OPTIONS, TOKENS, write_published
from support.quip_checkpoints import write_checkpoint

from tokenbounds.codecs import frame
from tokenbounds.codecs.archive import compressed_again, linked_folder, published_model, zip_message
from tokenbounds.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=2)


@pytest.fixture(scope="module")
def published(tmp_path_factory, folder):
    return write_published(tmp_path_factory.mktemp("run"), folder)[1]


def coded_files(published, tmp_path, change, **codec):
    config = copy.deepcopy(published.config)
    change(config)
    return frame.encode({}, config, codec={**published.codec, **codec}, layout=[])


def set_files(**changes):
    def change(config):
        config["files"][0] |= changes

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(files=c["files"][:1]), r"files are config.json; expected config.json, then"),
        (
            lambda c: c.update(files=c["files"][1:]),
            "files are model.safetensors.index.json, .*; expected config",
        ),
        (lambda c: c.update(files=[c["files"][1], c["files"][0], *c["files"][2:]]), "files are .*; expected"),
        (lambda c: c.update(files=[*c["files"], c["files"][-1]]), "files are .*; expected"),
        (lambda c: c.update(files=[]), r"files is \[\]; expected a list of files"),
        (lambda c: c.update(files={}), r"files is \{\}; expected a list of files"),
        (
            lambda c: c.pop("files"),
            "the config holds compressed_bytes, contexts, hypothesis; expected exactly",
        ),
        (
            lambda c: c.pop("compressed_bytes"),
            "the config holds contexts, files, hypothesis; expected exactly",
        ),
        (lambda c: c.update(note="x"), "the config holds .*note"),
        *(
            (
                lambda c, value=value: c.update(compressed_bytes=value),
                "compressed_bytes is .*; expected a whole",
            )
            for value in (-1000, 0, 100.0, True, "100")
        ),
        (set_files(name="../config.json"), "name is .*; expected a name without a folder"),
        (set_files(name="notes.txt"), "files are notes.txt.*; expected config.json"),
        (set_files(name=3), "name is 3; expected a name without a folder"),
        (set_files(note="x"), r"files\[0\] holds bytes, name, note, sha256; expected exactly"),
        (set_files(bytes=1.5), r"files\[0\].bytes is 1.5; expected a whole number"),
        (set_files(sha256="A" * 64), r"files\[0\].sha256 is .*; expected 64 hexadecimal digits"),
        (
            lambda c: c["hypothesis"].update(context_length=True),
            "hypothesis.context_length is true; expected 1",
        ),
        (lambda c: c["hypothesis"].update(note="x"), "note: Extra inputs"),
        (lambda c: c["hypothesis"].update(family="gpt"), "family: "),
    ],
)
def test_files_of_a_published_model(published, change, match, tmp_path):
    check_model_refused(coded_files(published, tmp_path, change), match, tmp_path)


@pytest.mark.parametrize("codec", [{"level": None}, {"level": True}, {"split_planes": 0}, {"tool": "bzip2"}])
def test_options_of_a_compressor(published, codec, tmp_path):
    header = {"codec": {**published.codec, **codec}, "config": published.config, "layout": 223132457}
    check_model_refused(forge(header, b""), "level|split_planes|compressor", tmp_path, header=False)


def test_a_model_is_read_from_the_named_files_alone(published, folder, tmp_path):
    """An index beside the named file, or a shard that is not named, is another model or none."""
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    shutil.copy(folder / "model-00001-of-00002.safetensors", copied / "model.safetensors")
    assert published_model(published, copied).hidden is not None  # a stray file changes nothing
    assert compressed_again(published, copied) == published.config["compressed_bytes"]
    fewer = copy.deepcopy(published)
    del fewer.config["files"][-1]
    for read in (published_model, compressed_again):
        with pytest.raises(InputError, match=re.escape(str(copied)) + ".*safetensors: no such file"):
            read(fewer, copied)
    turned = copy.deepcopy(published)
    turned.config["files"][2:] = turned.config["files"][:1:-1]
    for read in (published_model, compressed_again):
        with pytest.raises(InputError, match=r"files config.json, .*; expected .*, which are read"):
            read(turned, copied)
    resized = copy.deepcopy(published)
    resized.config["files"][0]["bytes"] += 1
    with pytest.raises(InputError, match=r"config\.json: not the file that message is about"):
        published_model(resized, copied)


def test_the_folder_of_links_is_removed(published, folder):
    with linked_folder(published, folder) as paths:
        linked = paths[0].parent
        assert sorted(os.listdir(linked)) == sorted(entry["name"] for entry in published.config["files"])
        assert all(path.is_symlink() for path in paths)
    assert not linked.exists()


def test_published_contexts_are_checked_when_written(folder):
    codec = {"tool": ["gzip"], "split_planes": False}
    with pytest.raises(InputError, match="contexts holds token; expected exactly"):
        zip_message(folder, codec, OPTIONS, TOKENS, {"token": CONTEXTS["schemes"][0]}, progress=False)
