"""The configuration, wildcard constraints, and functions of wildcards that several stages use; nothing
else."""

import os
import sys
from functools import partial

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)

from tokenbounds.config.load import parse_config
from tokenbounds.config.schema import Section, slice_of
from tokenbounds.errors import InputError
from tokenbounds.io.fingerprint import fingerprint
from tokenbounds.io.files import is_excluded, matching_files


def refuse(line):
    """End before any job, with a line that the launcher repeats at the end (see
    workflow_scripts/common.py)."""
    if errors := os.environ.get("TOKENBOUNDS_ERRORS"):
        with open(errors, "a", encoding="utf-8") as handle:
            handle.write(f"error: {line}\n")
    raise WorkflowError(line)


try:
    CONFIG = parse_config(config, " + ".join(map(str, workflow.configfiles)))
except InputError as error:
    refuse(str(error))


def one_of(names):
    """Wildcard constraint: one of some names; without any, nothing matches."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    run=CONFIG.run,
    corpus=one_of(CONFIG.corpora),
    model=one_of(CONFIG.models),
    codec=one_of(CONFIG.codecs),
    sampling=one_of(CONFIG.schemes),
    table=one_of(CONFIG.every_table),
    figure=one_of(CONFIG.figures),
    split="train|val",
    shard=r"\d{5}",
    part=r"\d{5}",


def setting(sections, wildcard, path="", **selection):
    """Params function: the value at a dotted path of the section that a wildcard names."""

    def value(wildcards):
        found = getattr(CONFIG, sections)[wildcards[wildcard]]
        for key in path.split(".") if path else ():
            found = getattr(found, key)
        return slice_of(found, **selection) if isinstance(found, Section) else found

    return value


from_corpus, from_scheme = partial(setting, "corpora", "corpus"), partial(setting, "schemes", "sampling")
from_model, from_codec = partial(setting, "models", "model"), partial(setting, "codecs", "codec")
from_figure = partial(setting, "figures", "figure")


def own(wildcards):
    """The hypothesis that the wildcards name, as a list of one (model, codec)."""
    return [(wildcards.model, wildcards.get("codec"))]


def code(*modules, hypotheses=None, preparation=False):
    """Params function: fingerprint of a job's code; a change of it makes the output stale.

    Counted are some modules and their imports, the models and codecs of `hypotheses(wildcards)`, and the
    codec's `preparation`.
    """

    def of(wildcards):
        pairs = hypotheses(wildcards) if hypotheses else []
        names = [*modules, *(name for pair in pairs for name in CONFIG.implementations(*pair))]
        if preparation and (prepare := CONFIG.codecs[wildcards.codec].preparation):
            names.append(prepare)
        return fingerprint(*names)

    return of


def scaled(amount):
    """A resource that a retry asks for more of: memory in MB, or minutes; a number, or a function of the
    wildcards."""
    return lambda wildcards, attempt: (amount(wildcards) if callable(amount) else amount) * attempt


def made_by(sections, *rules):
    """Wildcard constraint: the models, codecs or figures that some rules make."""
    return one_of(name for name, section in sections.items() if section.made_by in rules)
