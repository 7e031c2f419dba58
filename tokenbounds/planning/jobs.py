"""The jobs of a run, as Snakemake itself lists them: it reads the rules, and executes nothing.

Importing this module does not import Snakemake.
"""

import contextlib
import io
import logging
from dataclasses import dataclass
from pathlib import Path

from tokenbounds.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, eq=False)
class Job:
    """A job of the workflow.

    Attributes
    ----------
    rule : str
        Name of its rule.
    wildcards : dict
        Values of the rule's wildcards by name.
    gpus : int
        Number of GPUs that the rule asks for.
    """

    rule: str
    wildcards: dict[str, str]
    gpus: int = 0


@dataclass(frozen=True)
class JobGraph:
    """All jobs of a run, finished ones among them.

    Attributes
    ----------
    dependencies : dict
        The jobs that each job takes files from, by `Job`.
    producers : dict
        The job that writes a file, by path.
    """

    dependencies: dict[Job, list[Job]]
    producers: dict[str, Job]

    @property
    def jobs(self):
        """All jobs."""
        return set(self.dependencies)

    def needed_for(self, path):
        """Jobs that make a file: the one that writes it, and all that come before it."""
        needed, waiting = set(), [self.producers[path]]
        while waiting:
            job = waiting.pop()
            if job not in needed:
                needed.add(job)
                waiting += self.dependencies[job]
        return needed


def list_jobs(*config_paths):
    """List the jobs of a run with Snakemake, without running any.

    The rules are those of the checkout that this package is imported from. Relative paths in the
    configuration start at the working directory, as in a run.

    Parameters
    ----------
    *config_paths : path
        Configuration files, each laid over the one before; no other configuration is read.

    Returns
    -------
    JobGraph

    Raises
    ------
    InputError
        There is no Snakefile or no Snakemake, or Snakemake refuses the configuration.
    """
    snakefile = CHECKOUT / "Snakefile"
    if not snakefile.is_file():
        raise InputError(_needs(f"no Snakefile in {CHECKOUT}"))
    try:
        from snakemake.exceptions import ApiError, RuleException, WorkflowError
    except ImportError:
        raise InputError(_needs("Snakemake is not installed")) from None
    try:
        with _clean_up(Path.cwd() / ".snakemake"), contextlib.redirect_stdout(io.StringIO()):
            return _read_graph(snakefile, [Path(path) for path in config_paths])
    except (ApiError, OSError, RuleException, WorkflowError) as error:
        raise InputError(f"Snakemake lists no jobs: {_one_line(error)}") from None


def _needs(found):
    return f"plan: {found}; expected a checkout with the Snakefile, and the extra `pipeline` of its packages"


def _read_graph(snakefile, config_paths):
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

    silent = OutputSettings(dryrun=True, log_level_override=logging.CRITICAL + 1)
    # Only the files that are given: without the last option config.yaml of the working directory lies below
    # them, whether it is given or not.
    settings = ConfigSettings(configfiles=config_paths, replace_workflow_config=True)
    with SnakemakeApi(silent) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1), config_settings=settings, snakefile=snakefile
        )
        # The one call that builds the whole graph and neither starts a scheduler nor locks the working
        # directory; its output goes nowhere. With `forceall` no result is looked at.
        workflow.dag(DAGSettings(forceall=True)).printd3dag()
        return _copy(workflow._workflow.dag)


def _copy(dag):
    """Copy a graph of Snakemake's jobs."""
    jobs = {
        job: Job(job.rule.name, dict(job.wildcards_dict), job.resources.get("gpu", 0)) for job in dag.jobs
    }
    dependencies = {job: [jobs[other] for other in dag.dependencies[of]] for of, job in jobs.items()}
    return JobGraph(dependencies, {str(path): job for of, job in jobs.items() for path in of.output})


@contextlib.contextmanager
def _clean_up(folder):
    """Remove the folder of Snakemake's records afterwards, where there was none before.

    Only what listing jobs leaves there is removed: empty folders and a cache.
    """
    existed = folder.exists()
    try:
        yield
    finally:
        if not existed:
            (folder / "iocache" / "latest.pkl").unlink(missing_ok=True)
            for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
                with contextlib.suppress(OSError):
                    path.rmdir()


def _one_line(error):
    """Snakemake's message in one line, without the outputs of a job and Python's traceback."""
    lines = [line.strip() for line in str(error).partition("\nTraceback:")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith("output:")]
    return "; ".join(kept).replace(":;", ":")
