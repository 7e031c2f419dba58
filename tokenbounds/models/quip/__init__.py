"""QuIP# checkpoints: LLaMA weights in 2, 3 or 4 bits, decoded and run in float32.

In: a folder with config.json and safetensors of packed codes. Out: dense weights, of one linear layer
(`dequantize`) or one decoder layer at a time (`QuipCheckpoint`), and a model of a family (`QuipLlama`).
Codebooks and Hadamard matrices are built from their definitions; `tokenbounds.models.quip.linear` has the
formula.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint": ["QuipCheckpoint"],
        "codebooks": ["e8p_table", "e81b_table"],
        "config": ["QuipConfig", "QuipParams"],
        "hadamard": ["hadamard_order", "hadamard_transform"],
        "linear": ["dequantize", "unpack_e8p"],
        "llama": ["QuipLlama"],
    },
)
