"""TrainingJob: what a user asked for, normalised and validated; the first box of the whole path."""

from __future__ import annotations

from dataclasses import dataclass, field

JOB_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the ranks' interpreter must have.

    Either ``interpreter`` (an absolute path, user-managed) or ``packages``: requirement lines in pip's syntax, of the
    framework and ``pip_packages``, and ``-r`` with the absolute path of the requirements file, whose content is read when the
    packages are resolved. Neither: the interpreter that runs Muster.
    """

    interpreter: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Wanted per node: GPUs, CPUs, memory in bytes; 0 asks for none in particular."""

    gpus: int = 0
    cpus: float = 0.0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training job. ``source_directory`` is absolute; ``entry_script`` relative to it; else ``command`` is the program.

    ``secrets`` maps a variable's name to where its value is found; the value is never part of the job. Durations in
    seconds. Built by :func:`muster.core.request.training_job`, which checks every rule that needs no disk.
    """

    name: str
    framework: str
    source_directory: str = ""
    entry_script: str = ""
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    node_count: int = 1
    process_count_per_node: int = 1
    distributed_backend: str | None = None
    environment: Environment = Environment()
    resources: Resources = Resources()
    use_gpu: bool = False
    network_interface: str = ""
    environment_variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
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
