"""Scoring: predictions of drawn tokens by a decoded hypothesis.

In: a message, the draws of a sampling scheme and a token index. Out: records, a row per scored token with its
log-probability, rank and entropy, from which every bound is computed without the model. `sanity_check` finds
published models that are damaged.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "acceptance": ["check_passed"],
        "draws": ["draw_items", "message_draws"],
        "parts": ["records_table", "score_part"],
        "records": ["SCHEMA", "read_records", "read_sidecars", "write_records"],
        "reproducibility": ["Reproducibility"],
        "sanity_check": ["loss_on_documents"],
        "score": ["features", "rank_interval", "score_items"],
    },
)
