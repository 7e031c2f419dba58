"""A Slurm of one node on this machine: no systemd, no cgroups, no accounting database; GPUs that only the
scheduler believes in.

Everything lies in a folder of the caller's, but for the two files that Slurm reads only from /etc/slurm.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
MARK = "# written by tests/support/slurm.py, removed when its daemons stop\n"
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CLUSTER = "tokenbounds-test"
CPUS, MEMORY_MB, GPUS = 8, 200_000, 2  # resources that the scheduler hands out, whatever this machine has

CONFIGURATION = """\
ClusterName={cluster}
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
# Memory is looked at every two seconds, and a job over its limit is killed.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
# Nobody keeps accounts, so jobs that ended stay in the list for an hour.
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=3600
EnforcePartLimits=ALL
ReturnToService=2
KillWait=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""


def reason_not_to_start():
    """Return the reason why no Slurm can be started here, or None."""
    if os.geteuid() != 0:
        return "only root can start Slurm's daemons"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"Slurm is not installed ({missing[0]} is missing): apt-get install slurm-wlm munge"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK):
        return f"{conf} is of another Slurm"
    return None


class Slurm:
    """The daemons, from `start` to `stop`."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.pid_files = [self.folder / name for name in ("slurmd.pid", "slurmctld.pid", "munge/munged.pid")]

    def start(self):
        """Start munged, slurmctld and slurmd, and wait until the node takes jobs."""
        munge, key = self.folder / "munge", self.folder / "munge" / "key"
        for name in ("munge", "slurmctld", "slurmd"):
            (self.folder / name).mkdir(parents=True)
        for number in range(GPUS):  # a GPU is a character device: these are /dev/null by another name
            os.mknod(self.folder / f"gpu{number}", 0o020666, os.makedev(1, 3))
        ETC.mkdir(exist_ok=True)
        conf = CONFIGURATION.format(
            cluster=CLUSTER, folder=self.folder, cpus=CPUS, memory_mb=MEMORY_MB, gpus=GPUS
        )
        (ETC / "slurm.conf").write_text(MARK + conf)
        (ETC / "gres.conf").write_text(
            f"{MARK}NodeName=localhost Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
        )
        _call("mungekey", "--create", f"--keyfile={key}")
        _call(
            "munged",
            "--force",
            f"--key-file={key}",
            *(f"--{name}-file={munge}/munged.{name}" for name in ("pid", "log", "seed")),
            f"--socket={munge}/socket",
        )
        _call("slurmctld")
        _call("slurmd", "-N", "localhost")
        wait_for(self.is_idle, "an idle node", seconds=60)

    def stop(self):
        """Stop the daemons and the processes they started; remove the files of `start` outside the folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self("scancel", "--me")
            wait_for(lambda: not self("squeue", "--noheader"), "an empty queue", seconds=30)
        for path in self.pid_files:
            with contextlib.suppress(OSError, ValueError):
                end(int(path.read_text()))
        # Without cgroups, a process that lost its parent outlives its job.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CLUSTER_NAME") == CLUSTER:
                    process.kill()
        # With these files and no slurmctld, every start of snakemake waits ten seconds.
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink(missing_ok=True)

    def is_idle(self):
        """Check whether the controller answers and the node is free."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return set(self("sinfo", "--noheader", "--format=%T").split()) == {"idle"}
        return False

    def __call__(self, *command):
        """Run a Slurm command and return its output."""
        return _call(*command).strip()

    def log(self):
        """Return the list of all jobs so far, a line each."""
        form = (
            "JobID:6,State:12,Partition:10,tres-alloc:50,"
            "SubmitTime:21,StartTime:21,TimeUsed:10,Comment:90,WorkDir:120"
        )
        return self("squeue", "--states=all", "--sort=i", f"--Format={form}") + "\n"

    def jobs(self, folder):
        """List the jobs that runs in `folder` submitted, by number: rule, wildcards, state and resources."""
        columns = {
            "number": "JobID",
            "state": "State",
            "comment": "Comment",
            "partition": "Partition",
            "tres": "tres-alloc",
            "limit": "TimeLimit",
        }
        form = ",".join(f"{column}:|" for column in [*columns.values(), "WorkDir"])
        jobs = {}
        for line in self("squeue", "--states=all", "--noheader", "--sort=i", f"--Format={form}").splitlines():
            *values, workdir = line.rstrip("|").split("|")
            job = dict(zip(columns, values, strict=True))
            if Path(workdir) == Path(folder):
                job["rule"], _, job["wildcards"] = (
                    job["comment"].removeprefix("rule_").partition("_wildcards_")
                )
                jobs[int(job["number"])] = job
        return jobs


def wait_for(condition, event, seconds=120):
    """Wait until `condition()` is true and return its value."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{event}: not in {seconds} s")


def end(process):
    """End a process by its number and wait until it is gone."""
    os.kill(process, signal.SIGTERM)
    with contextlib.suppress(ProcessLookupError):
        for _ in range(100):
            os.kill(process, 0)
            time.sleep(0.1)
        os.kill(process, signal.SIGKILL)


def _call(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
