"""Corpora: text to tokens, their index, and draws from them.

In: sources (packages, files, downloads, synthetic documents) and their sections of the configuration. Out:
token shards with an index, tokenizers, drawn positions, and the contexts (`Item`) that a model scores.
Nothing here needs torch or knows a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "contexts": ["ContextRule", "Item", "document_items", "token_items", "window_items"],
        "documents": ["read_manifest", "write_manifest"],
        "indexing": ["build_index"],
        "readers": ["count_documents", "read_documents", "read_range"],
        "sampling": ["context_of", "draw", "draw_key", "positions_of_stream", "window_segments"],
        "shards": ["tokenize_shard"],
        "sources": ["SourceFile", "list_files"],
        "store": ["CorpusIndex", "TokenStore"],
        "tokenizer_folder": ["tokenizer_digest"],
        "tokenizers": ["TextTokenizer", "load_tokenizer", "prepare_tokenizer"],
    },
)
