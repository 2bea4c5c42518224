"""TrainingJob: the validated request of a user."""

from __future__ import annotations

from dataclasses import dataclass, field

JOB_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Requirements of the ranks' interpreter.

    Either ``interpreter`` (an absolute path, user-managed), or ``image`` (a container image of the user's own, used as it is),
    or ``packages``: requirement lines in pip's syntax, of the framework and ``pip_packages``, and ``-r`` with the absolute path
    of the requirements file, whose content is read when the packages are resolved. None of them: the interpreter that runs
    Muster, in a container the base image's.

    ``python`` is a version such as ``3.11``, "" for that of the Python that runs Muster. In an image that is built,
    ``apt_packages`` are added to ``base_image`` ("" for the target's own choice), and ``steps``, lines of shell, are run last.
    """

    interpreter: str = ""
    packages: tuple[str, ...] = ()
    python: str = ""
    image: str = ""
    base_image: str = ""
    apt_packages: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Required per node: GPUs, CPUs, memory in bytes; 0 for no requirement."""

    gpus: int = 0
    cpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder of the host (or a network file system on it) that every node sees at ``target``; both absolute."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class Roles:
    """TensorFlow's cluster: how many tasks of each kind; all 0 and false where a framework has no roles."""

    workers: int = 0
    servers: int = 0
    chief: bool = False
    evaluator: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training job. ``source_directory`` is absolute; ``entry_script`` relative to it; else ``command`` is the program.

    ``secrets`` maps a variable's name to where its value is found; the value is never part of the job. Durations in seconds.
    ``mounts``, ``shm_size`` and ``docker_arguments`` are for targets with containers. Built by
    :func:`muster.request.training_job.training_job`, which checks every rule that needs no disk.
    """

    name: str
    framework: str
    source_directory: str = ""
    entry_script: str = ""
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    node_count: int = 1
    min_node_count: int = 0  # an elastic job continues while so many nodes are left; 0: the loss of a node ends it
    process_count_per_node: int = 1
    distributed_backend: str | None = None
    roles: Roles = Roles()
    mpi_arguments: tuple[str, ...] = ()
    environment: Environment = Environment()
    resources: Resources = Resources()
    use_gpu: bool = False
    network_interface: str = ""
    environment_variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    shm_size: int = 2 << 30  # bytes of /dev/shm in a container
    docker_arguments: tuple[str, ...] = ()
    max_run_duration_seconds: float = 2_592_000.0
    grace_seconds: float = 10.0
    store_patience_seconds: float = 600.0
    resume_from: str = ""
    store: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    version: int = JOB_VERSION

    @property
    def world_size(self) -> int:
        """Number of ranks over all nodes."""
        return self.node_count * self.process_count_per_node

    @property
    def elastic(self) -> bool:
        """Return whether the job survives the loss of nodes."""
        return self.min_node_count > 0
