"""Places that run jobs, by the name of their kind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from muster.core.errors import RequestError
from muster.targets.contract import ComputeTarget

# of the docker SDK: what only ssh:// engines need. It brings paramiko, which is half of the SDK's import
DOCKER_OVER_SSH = "docker.transport.sshconn"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How to make a target of plain fields; those it knows besides ``name``. The module is imported when it is opened."""

    fields: tuple[str, ...]
    open: Callable[[str, Mapping[str, Any]], ComputeTarget]


def open_target(config: Mapping[str, Any] | str | None, *, alone: bool = False) -> ComputeTarget:
    """Make a target of its configuration: ``{"type": "local", "root": folder}``; ``"local"`` and None are this machine.

    ``alone``: the process is for this target only, so libraries may be imported in part.

    :raises RequestError: an unknown kind of target, or an unknown field.
    """
    fields = {"type": config or "local"} if not isinstance(config, Mapping) else dict(config)
    kind = fields.pop("type", "local")
    if kind not in KINDS:
        raise RequestError(f"unknown target {kind!r}; known: {', '.join(KINDS)}, names in muster.toml and connections")
    name = fields.pop("name", None) or kind
    unknown = sorted(set(fields) - set(KINDS[kind].fields))
    if unknown:
        raise RequestError(f"target {kind!r} has no field {unknown[0]!r}; it takes {', '.join(KINDS[kind].fields)}")
    if alone:
        sys.modules.setdefault(DOCKER_OVER_SSH, None)  # type: ignore[arg-type]
    return KINDS[kind].open(name, fields)


def default_root() -> str:
    """Give the folder for jobs and caches of this machine: MUSTER_HOME, else ``~/.muster``."""
    return os.environ.get("MUSTER_HOME") or "~/.muster"


def _open_local(name: str, fields: Mapping[str, Any]) -> ComputeTarget:
    from muster.targets.local.target import LocalTarget

    return LocalTarget(root=Path(fields.get("root") or default_root()).expanduser().resolve(), name=name)


def _open_docker(name: str, fields: Mapping[str, Any]) -> ComputeTarget:
    from muster.targets.docker.target import DockerTarget

    return DockerTarget.from_fields(name, fields)


def _open_ssh(name: str, fields: Mapping[str, Any]) -> ComputeTarget:
    from muster.targets.ssh.target import SshTarget

    return SshTarget.from_fields(name, fields)


def _open_slurm(name: str, fields: Mapping[str, Any]) -> ComputeTarget:
    from muster.targets.slurm.target import SlurmTarget

    return SlurmTarget.from_fields(name, fields)


DOCKER_FIELDS = (
    "url",
    "tls_ca_cert",
    "tls_client_cert",
    "tls_client_key",
    "tls_verify",
    "base_image",
    "gpu_base_image",
    "image_repository",
    "registry_login",
    "networks",
    "gpus",
)

# of the inventory: ``hosts``, and what holds for all of them that do not say otherwise
SSH_FIELDS = (
    "hosts",
    "slots",
    "gpus",
    "root",
    "python",
    "host_key_check",
    "port",
    "user",
    "key",
    "key_file",
    "passphrase",
    "password",
    "known_hosts",
    "known_hosts_file",
)

LOGIN_FIELDS = (
    "host",
    "port",
    "user",
    "key",
    "key_file",
    "passphrase",
    "password",
    "known_hosts",
    "known_hosts_file",
    "host_key",
    "host_key_check",
)
SLURM_FIELDS = (
    "login",
    "root",
    "python",
    *LOGIN_FIELDS,
    "bin",
    "partition",
    "qos",
    "account",
    "time_limit",
    "constraint",
    "nodelist",
    "exclude",
    "gres",
    "memory",
    "cpus_per_task",
    "modules",
    "prologue",
    "wrapper",
    "srun_options",
    "sbatch_options",
    "requeue",
    "poll_interval",
)

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "local": Kind(fields=("root",), open=_open_local),
        "docker": Kind(fields=DOCKER_FIELDS, open=_open_docker),
        "ssh": Kind(fields=SSH_FIELDS, open=_open_ssh),
        "slurm": Kind(fields=SLURM_FIELDS, open=_open_slurm),
    }
)
