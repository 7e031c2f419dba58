"""Model families: GPTs, models of the transformers library, QuIP# LLaMAs, Markov chains; and smoothing heads.

In: a hypothesis configuration and tensors, from a message, a folder or an initialization. Out: models with
one interface (`tokenbounds.models.registry`): `hidden` maps token ids to states, `head` states to logits.
A family is looked up by its name, and neither torch nor a family is imported before a model is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "folders": ["load_config", "load_model", "save_model"],
        "gpt": ["GPT"],
        "markov": ["MarkovChain", "train_chain"],
        "pretrained": ["read_folder"],
        "registry": [
            "build_model",
            "class_of",
            "context_length_of",
            "family_class",
            "fill_model",
            "layout_of",
            "new_model",
        ],
        "smoothing_head": ["AlphaHead"],
        "structured": ["trainable_count"],
        "subspace": ["Projector", "Subspace"],
        "transformers": ["CausalLM"],
    },
)
