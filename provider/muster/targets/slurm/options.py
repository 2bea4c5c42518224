"""Declares the options of a Slurm cluster, and holds those with which jobs are submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from muster.core.errors import RequestError
from muster.targets.hosts.options import LOGIN, PYTHON
from muster.targets.options import DEFAULT_ROOT, Kind, Option, parse_options

LOGIN_NODE, JOBS, RESOURCES, PROGRAM, RESTARTS = "Login node", "Jobs", "Resources", "Program", "Restarts and polling"

JOB_OPTIONS = (
    Option(
        name="partition",
        label="Partition",
        help="Partition of the jobs. Empty: the cluster's default.",
        group=JOBS,
        example="gpu",
    ),
    Option(name="qos", label="QOS", help="Quality of service. Empty: the cluster's default.", group=JOBS, example="high"),
    Option(name="account", label="Account", help="Account that is charged. Empty: the user's default.", group=JOBS),
    Option(
        name="time_limit",
        label="Time limit",
        help="Time limit, as sbatch --time. Empty: the partition's.",
        group=JOBS,
        example="1-12:00:00",
    ),
    Option(
        name="constraint",
        label="Constraint",
        help="Features that nodes must have, as sbatch --constraint. Empty: none.",
        group=JOBS,
        example="ib&a100",
    ),
    Option(
        name="nodelist",
        label="Nodes",
        help="Nodes that a job must include, as sbatch --nodelist. Empty: none.",
        group=JOBS,
        example="node[1-4]",
    ),
    Option(
        name="exclude",
        label="Excluded nodes",
        help="Nodes that a job must not include, as sbatch --exclude. Empty: none.",
        group=JOBS,
        example="node7",
    ),
    Option(
        name="sbatch_options",
        label="sbatch options",
        help="Further options of sbatch. Options that Muster sets are refused: name, nodes, tasks, arrays, files, environment. "
        "Empty: none.",
        kind=Kind.WORDS,
        group=JOBS,
        example="--nice=5 --exclusive",
    ),
    Option(
        name="gres",
        label="GPUs as GRES",
        help="Name of the GPUs in the cluster, with a type if one is required. Empty: gpu.",
        group=RESOURCES,
        example="gpu:a100",
    ),
    Option(
        name="cpus_per_task",
        label="CPUs",
        help="CPUs of each node, for all its ranks. Empty: as the job asks, else one for each rank.",
        kind=Kind.INTEGER,
        group=RESOURCES,
        example="32",
    ),
    Option(
        name="memory",
        label="Memory",
        help="Memory of each node, as sbatch --mem, for jobs that ask for none. Empty: the cluster's default.",
        group=RESOURCES,
        example="64G",
    ),
    Option(
        name="modules",
        label="Modules",
        help="Modules loaded before the nodes start, separated by blanks. Empty: none.",
        kind=Kind.WORDS,
        group=PROGRAM,
        example="cuda/12 openmpi",
    ),
    Option(
        name="prologue",
        label="Prologue",
        help="Lines of bash that run on the first node before the nodes start. Empty: none.",
        kind=Kind.LINES,
        group=PROGRAM,
        example="source /etc/profile.d/site.sh",
    ),
    Option(
        name="wrapper",
        label="Wrapper",
        help="Words before the program on every node. Empty: none.",
        kind=Kind.WORDS,
        group=PROGRAM,
        example="apptainer exec --nv image.sif",
    ),
    Option(
        name="srun_options",
        label="srun options",
        help="Further options of srun. Empty: none.",
        kind=Kind.WORDS,
        group=PROGRAM,
        example="--container-image=image.sqsh",
    ),
    Option(
        name="requeue",
        label="Requeue",
        help="Whether Slurm may start a preempted job again. Empty: true.",
        kind=Kind.SWITCH,
        group=RESTARTS,
    ),
    Option(
        name="poll_interval",
        label="Poll interval",
        help="Seconds between two queries of the states of all jobs. Empty: 5.",
        kind=Kind.NUMBER,
        group=RESTARTS,
        example="5",
    ),
)

OPTIONS = (
    Option(
        name="host",
        label="Login node",
        help="Address of the login node, reached over SSH. Empty: the worker's own machine.",
        group=LOGIN_NODE,
        example="login.cluster.example.org",
        standard="host",
    ),
    Option(
        name="login",
        label="Login",
        help="local for the worker's own machine, ssh for the login node in host. Empty: as host says.",
        group=LOGIN_NODE,
        form=False,
    ),
    *LOGIN,
    Option(
        name="root",
        label="Root folder",
        help=f"Folder that login and compute nodes share under one name. Empty: {DEFAULT_ROOT}.",
        group=LOGIN_NODE,
        example="/shared/muster",
    ),
    replace(PYTHON, group=LOGIN_NODE),
    Option(
        name="bin",
        label="Commands",
        help="Folder of sbatch and the other commands on login and compute nodes. Empty: they are on the PATH.",
        group=LOGIN_NODE,
        example="/opt/slurm/bin",
    ),
    *JOB_OPTIONS,
)
# options that Muster sets itself; set again, the job would not be found
OWNED = (
    *("--job-name", "-J", "--comment", "--nodes", "-N", "--ntasks", "-n", "--ntasks-per-node", "--array", "-a", "--wrap"),
    *("--output", "-o", "--error", "-e", "--chdir", "-D", "--parsable", "--wait", "-W", "--export", "--open-mode"),
)
# a short option, which may follow others that take no value, and be followed by its value
_SHORT = re.compile(f"-[hHIkOQsuvV]*([{''.join(name[1] for name in OWNED if len(name) == 2)}])")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a job beside nodes and GPUs; "" and 0 leave them to the cluster.

    ``gres``: the name of GPUs there, with a type if one is wanted (``gpu:a100``). ``cpus_per_task``: of a node's one task,
    which holds all its ranks. ``modules`` are loaded, ``prologue`` is shell that runs before the nodes start; ``wrapper`` is
    put before the program on each node (``apptainer exec IMAGE``), ``srun_options`` before that. ``bin``: folder of Slurm's
    commands. ``poll_interval``: seconds between two questions for the states of all jobs.
    """

    partition: str = ""
    qos: str = ""
    account: str = ""
    time_limit: str = ""
    constraint: str = ""
    nodelist: str = ""
    exclude: str = ""
    gres: str = "gpu"
    memory: str = ""
    bin: str = ""
    prologue: str = ""
    modules: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    srun_options: tuple[str, ...] = ()
    sbatch_options: tuple[str, ...] = ()
    cpus_per_task: int = 0
    poll_interval: float = 5.0
    requeue: bool = True

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Options:
        """Return the options that a configuration has.

        :raises RequestError: a value is not of its option's kind, or an option of sbatch is one that Muster sets.
        """
        values = parse_options((option for option in OPTIONS if option.name in cls.__dataclass_fields__), fields)
        _refuse_owned(values.get("sbatch_options", ()))
        return cls(**values)

    def command(self, name: str) -> str:
        """Return one of Slurm's commands as it is called."""
        return f"{self.bin.rstrip('/')}/{name}" if self.bin else name


def _refuse_owned(options: tuple[str, ...]) -> None:
    for option in options:
        if name := _owned_by(option):
            raise RequestError(f"sbatch_options: {option} would change {name}, which Muster sets itself; leave it out")


def _owned_by(option: str) -> str:
    """Return the option of Muster's own that a word would set again, in any way that sbatch accepts; "" if none."""
    if option == ":":
        return "the number of jobs"
    if option.startswith("--"):  # an option's name may be cut short
        return next((name for name in OWNED if name.startswith(option.partition("=")[0])), "")
    short = _SHORT.match(option)
    return f"-{short[1]}" if short else ""
