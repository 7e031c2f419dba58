"""tokenbounds: from text to certified token-level generalization bounds.

    snakemake --profile profiles/quickstart     a small run on two CPU cores
    snakemake --profile profiles/local          the run of config.yaml on one machine

What the rules compute is decided by config.yaml (and an overlay, or a configuration that stands alone); how they
are executed, by the profile.
"""

from snakemake.utils import min_version

min_version("9.20")


if not config.get("standalone"):

    configfile: "config.yaml"


# Jobs run in the environment that runs snakemake. With --software-deployment-method apptainer, name an image
# here that has requirements.lock and this package installed; this one has Python only.
container: "docker://python:3.11-slim"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/published.smk"
include: "rules/params.smk"
include: "rules/corpus.smk"
include: "rules/tokens.smk"
include: "rules/model.smk"
include: "rules/message.smk"
include: "rules/scoring.smk"
include: "rules/certificates.smk"
include: "rules/memorization.smk"
include: "rules/downstream.smk"
include: "rules/reports.smk"


rule all:
    default_target: True
    input:
        expand(
            f"{CONFIG.results}/tables/{{table}}.{{suffix}}",
            table=CONFIG.every_table,
            suffix=("csv", "md", "tex"),
        ),
        expand(
            f"{CONFIG.results}/figures/{{figure}}.{{suffix}}",
            figure=CONFIG.figures,
            suffix=("csv", "pdf", "png"),
        ),
        CONFIG.shown_certificates(),  # so that one which is missing is made again
