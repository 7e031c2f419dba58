"""Files with documents for tests, and the corpus of a configuration that reads them."""

import json

import numpy as np

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.readers import read_documents
from tokenbounds.corpus.sources import SourceFile

EOT = "<|endoftext|>"


def write(path, data):
    """Write bytes to a file in a folder that need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def texts(path, field="text", start=0, stop=None):
    """Read the texts of a file's documents."""
    return [text for _, text in read_documents(SourceFile(str(path)), field, start, stop)]


def texts_of(file):
    """Read the texts of all documents of a `SourceFile`."""
    return [text for _, text in read_documents(file)]


def write_documents(path, documents):
    """Write texts as jsonl."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def corpus_of(tokenizer, files="none.txt", **more):
    """Make the section of a corpus of files."""
    return Corpus(source={"files": [str(files)]}, tokenizer=tokenizer, **more)


def sample_texts(count=200):
    """Make texts of code-like words, some of which spell the end-of-text token."""
    rng = np.random.default_rng(0)
    words = ["def", "return", "x", "(", ")", "\n    ", "\n", "import", EOT, "naïve", "🙂", "1234", "  "]
    return [" ".join(rng.choice(words, size=rng.integers(1, 60))) for _ in range(count)]
