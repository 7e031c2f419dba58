"""Codecs: a model to a message, a byte string, and back to the hypothesis that is scored, bit for bit.

In: a model's folder, a codec's section of the configuration, and the contexts of the sampling schemes. Out:
a message, whose length in bits is the complexity C(h) of the bound, and the decoded model. Reading a header
needs no torch. `frame` writes the part common to all messages, a subclass of `Codec` the rest
(docs/message-format.md).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "base": ["Codec"],
        "contexts": ["context_rule"],
        "decode": [
            "decode_message",
            "encode_model",
            "model_of",
            "read_message",
            "read_model",
            "write_message",
        ],
        "encode": ["code_model"],
        "frame": ["Message", "message_bits"],
        "header": ["Header", "complexity_bits", "read_header"],
        "sidecar": ["write_with_sidecar"],
    },
)
