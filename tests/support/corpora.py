"""Small corpora for tests, from source files to an index, made without Snakemake."""

from support.documents import write_documents
from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import SPLITS, write_manifest
from tokenbounds.corpus.indexing import build_index
from tokenbounds.corpus.shards import tokenize_shard
from tokenbounds.corpus.sources import list_files
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.tokenizers import prepare_tokenizer, training_documents

EOT = "<|endoftext|>"


def make_corpus(folder, corpus, *, seed=137, context_length=4, other=None):
    """Make a corpus of files: manifest, roles, tokenizer, shards and indices; return its train `TokenStore`.

    `folder` is ``tokens/{corpus}`` of a run, and `other` the tokenizer's folder of another corpus.
    """
    paths = folder / "documents.json", folder / "roles.bin"
    write_manifest(corpus, seed, folder.name, list_files(corpus.source), *paths)
    trains = corpus.tokenizer.train is not None
    documents = training_documents(corpus, *paths) if trains else None
    prepare_tokenizer(corpus, folder / "tokenizer", documents=documents, other=other)
    for shard in range(corpus.shards):
        tokenize_shard(corpus, *paths, folder / "tokenizer", shard, folder)
    for split in SPLITS:
        sidecars = [folder / split / f"{shard:05d}.json" for shard in range(corpus.shards)]
        build_index(sidecars, folder / split, context_length)
    return TokenStore(folder / "train")


def write_corpus(folder, documents, vocab_size=50, shards=1, val=0.0, **standing):
    """Make a corpus of documents that are given as token ids from 1 to vocab_size - 1 (0 is the EOT).

    Its texts have a character per token. The tokenizer is paid, or of another standing, e.g.
    ``standing="assumed", fixed_before="a test"``.
    """
    texts = ["".join(chr(0x100 + token) for token in ids) for ids in documents]
    folder.mkdir(parents=True, exist_ok=True)
    path = write_documents(folder / "source.jsonl", texts)
    vocabulary = [EOT, *(chr(0x100 + token) for token in range(1, vocab_size))]
    corpus = Corpus(
        source={"files": [str(path)]},
        tokenizer={"vocabulary": vocabulary, **standing},
        eot=EOT,
        split={"val": val},
        shards=shards,
    )
    return make_corpus(folder, corpus)
