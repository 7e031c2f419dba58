"""A small run, and a pair of tokenizers, that several test files read."""

import pytest
import tokenizers
import torch
from support.runs import SCHEMES, write_run

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.tokenizers import load_tokenizer, prepare_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run") / "run", {"token": SCHEMES["token"]})


def prepared(folder, **section):
    prepare_tokenizer(Corpus(source={"files": ["x.txt"]}, tokenizer=section, eot="<eot>"), folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tokenizer of characters and a byte-level BPE that joins "ab", " c" and "abc", with their folders."""
    folder = tmp_path_factory.mktemp("tokenizers")
    characters = ["<eot>", "a", "b", "c", " ", "é"]
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<eot>", *alphabet, "ab", "Ġc", "abc"])}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b"), ("Ġ", "c"), ("ab", "c")]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.save(str(folder / "bpe.json"))
    return {
        "characters": prepared(folder / "characters", vocabulary=characters),
        "bpe": prepared(folder / "bpe", file=str(folder / "bpe.json")),
        "ids": vocabulary,
        "folder": folder,
    }
