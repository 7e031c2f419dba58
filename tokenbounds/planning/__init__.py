"""Planning: the cost of a run before it starts, in jobs, GPU hours and bytes.

In: a configuration, and the jobs that Snakemake lists for it (`list_jobs`). Out: data frames by table and
figure, or by rule (`by_output`, `by_rule`), and numbers of parameters by model (`models_frame`). `Costs`
estimates what one job takes. Importing this loads neither torch nor Snakemake.
"""

from tokenbounds.planning.costs import A100_TERAFLOPS, A100_TERAFLOPS_32, UTILIZATION, Costs
from tokenbounds.planning.jobs import Job, JobGraph, list_jobs
from tokenbounds.planning.parameter_counts import COUNTS, models_frame
from tokenbounds.planning.summary import by_output, by_rule

__all__ = [
    "A100_TERAFLOPS",
    "A100_TERAFLOPS_32",
    "COUNTS",
    "UTILIZATION",
    "Costs",
    "Job",
    "JobGraph",
    "by_output",
    "by_rule",
    "list_jobs",
    "models_frame",
]
