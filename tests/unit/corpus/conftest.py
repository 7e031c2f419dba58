"""A small trained tokenizer, shared by the tests of tokenizers and shards."""

import pytest
from support.documents import corpus_of, sample_texts

from tokenbounds.corpus.tokenizers import load_tokenizer, prepare_tokenizer


@pytest.fixture(scope="session")
def trained_dir(tmp_path_factory):
    """Folder of a byte-level BPE of 300 tokens."""
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    prepare_tokenizer(corpus_of({"train": {"vocab_size": 300}}), folder, documents=sample_texts())
    return folder


@pytest.fixture(scope="session")
def trained(trained_dir):
    """The tokenizer of `trained_dir`."""
    return load_tokenizer(trained_dir)
