"""tokenbounds: from text to certified token-level generalization bounds.

    snakemake --profile profiles/quickstart     a small run on two CPU cores
    snakemake --profile profiles/local          the run of config.yaml on one machine

What the rules compute is decided by config.yaml (and an overlay); how they are executed, by the profile.
"""

from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


# Only used with --software-deployment-method apptainer; otherwise jobs run in the environment that runs snakemake.
container: "docker://python:3.11-slim"


include: "rules/common.smk"
include: "rules/corpus.smk"
include: "rules/model.smk"
include: "rules/message.smk"
include: "rules/risk.smk"
include: "rules/bound.smk"
include: "rules/paper.smk"


rule all:
    default_target: True
    input:
        TARGETS,
