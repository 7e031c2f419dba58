"""Smoothing heads: training them to minimise a bound.

In: the message of a model, training tokens, and the bound of the certificate that the head is for. Out: an
`AlphaHead` whose parameters are float16 numbers, ready to follow the model's message, and the history of its
objective. The head itself is a model (`tokenbounds.models.smoothing_head`), so that decoding needs no bounds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"from_message": ["head_of_message"], "train": ["choose_head", "train_head"]},
)
