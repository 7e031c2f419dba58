"""tokenbounds: from text to certified token-level generalization bounds.

    snakemake --profile profiles/quickstart     a small run on two CPU cores
    snakemake --profile profiles/local          the run of config.yaml on one machine

What the rules compute is decided by config.yaml (and an overlay); how they are executed, by the profile.
"""

from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


# Jobs run in the environment that runs snakemake. With --software-deployment-method apptainer, name an image here that has requirements.lock
# and this package installed; this one has Python only.
container: "docker://python:3.11-slim"


include: "rules/common.smk"
include: "rules/corpus.smk"
include: "rules/model.smk"
include: "rules/message.smk"
include: "rules/risk.smk"
include: "rules/bound.smk"
include: "rules/meaning.smk"
include: "rules/paper.smk"


rule all:
    default_target: True
    input:
        expand(f"{RESULTS}/tables/{{table}}.{{suffix}}", table=CONFIG.all_tables, suffix=("csv", "md", "tex")),
        expand(f"{RESULTS}/figures/{{figure}}.{{suffix}}", figure=CONFIG.figures, suffix=("csv", "pdf", "png")),
        shown_certificates(),  # so that one which is missing is made again
