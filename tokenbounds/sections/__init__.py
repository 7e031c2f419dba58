"""The sections of the configuration: closed, described schemas of corpora, models, codecs, bounds, tables and figures.

Importing this package does not import torch: the Snakefile reads the configuration in every cluster job.
"""

from tokenbounds.sections.base import Name, Probability, Section, slice_of
from tokenbounds.sections.codecs import Codec, Counts, Head, Lattice, Levels, Scoring
from tokenbounds.sections.corpora import Antibodies, Corpus, Sampling, Sequences, Source
from tokenbounds.sections.models import (
    PUBLISHED,
    Architecture,
    GPTModel,
    HypothesisConfig,
    Kronecker,
    LoRA,
    Model,
    Monarch,
    Structure,
    Subspace,
    Training,
    TransformersModel,
)
from tokenbounds.sections.outputs import Bounds, Figure, Row, Table

__all__ = [
    "PUBLISHED",
    "Antibodies",
    "Architecture",
    "Bounds",
    "Codec",
    "Corpus",
    "Counts",
    "Figure",
    "GPTModel",
    "Head",
    "HypothesisConfig",
    "Kronecker",
    "Lattice",
    "Levels",
    "LoRA",
    "Model",
    "Monarch",
    "Name",
    "Probability",
    "Row",
    "Sampling",
    "Scoring",
    "Section",
    "Sequences",
    "Source",
    "Structure",
    "Subspace",
    "Table",
    "Training",
    "TransformersModel",
    "slice_of",
]
