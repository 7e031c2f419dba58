"""Experiments with decoded models beyond their bounds: generated text, memorization, resampled tokens.

In: messages of models, token indices, tokenizers and drawn positions. Out: samples of text (`samples_of`),
counts of memorized integers (`write_accuracies`), continuations of drawn contexts (`resample`) and scores of
models on them (`write_scores`): estimates, not bounds. `tokenbounds.reports` shows them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "downstream": ["evaluate", "write_scores"],
        "generation": ["Sample", "generate", "samples_of"],
        "memorization": ["IntegerCounts", "count_right", "measure_accuracy", "write_accuracies"],
        "resampling": ["read_resampled", "resample"],
        "rewriting": ["Spellings", "rewritten"],
    },
)
