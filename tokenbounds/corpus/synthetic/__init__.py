"""Synthetic corpora: documents that a run makes itself, as jsonl.

In: a corpus's ``source.sequences`` or ``source.antibodies`` and the run's seed. Out: a file with a record
``{"text": ...}`` per document, a function of the section and the seed alone. Sequences of integers have a
known complexity; clonal families of antibodies come from published files or from a synthetic repertoire.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "antibodies": ["write_families"],
        "antibody_repertoire": ["synthetic_families"],
        "integer_sequences": ["random_sequences", "structured_sequences", "write_sequences"],
    },
)
