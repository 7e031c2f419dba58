"""Sections of the configuration: closed, described schemas of corpora, models, codecs, bounds, tables and
figures.

In: nested dictionaries, as read from YAML. Out: immutable objects that know their own rules (`longest`,
`encodes`, `inputs`), and the JSON schema. Nothing here imports torch: the Snakefile reads the configuration
in every cluster job.
"""

from tokenbounds.config.schema.base import Name, Probability, Section, checked, known, slice_of
from tokenbounds.config.schema.bounds import Bounds
from tokenbounds.config.schema.codecs import Codec, CodecSection, Counts, Head, Lattice, Levels, Scoring
from tokenbounds.config.schema.corpora import Antibodies, Corpus, Sampling, Sequences, Source
from tokenbounds.config.schema.figures import Figure
from tokenbounds.config.schema.models import (
    Architecture,
    Arithmetic,
    GPTModel,
    HypothesisConfig,
    Model,
    TrainedSection,
    Training,
    TransformersModel,
)
from tokenbounds.config.schema.reports import Row, Table
from tokenbounds.config.schema.structures import Kronecker, LoRA, Monarch, Structure, Subspace

__all__ = [
    "Antibodies",
    "Architecture",
    "Arithmetic",
    "Bounds",
    "Codec",
    "CodecSection",
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
    "TrainedSection",
    "Training",
    "TransformersModel",
    "checked",
    "known",
    "slice_of",
]
