"""Opens a target by its plain configuration; declares which targets there are and which options each takes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from muster.core.errors import RequestError
from muster.targets.docker.options import OPTIONS as DOCKER
from muster.targets.local.options import OPTIONS as LOCAL
from muster.targets.options import Option, require_known
from muster.targets.slurm.options import OPTIONS as SLURM
from muster.targets.ssh.options import OPTIONS as SSH

if TYPE_CHECKING:
    from muster.targets.contract import ComputeTarget

# by the target's type, which is also the folder of its module ``target`` and the first word of its class
OPTIONS: Mapping[str, tuple[Option, ...]] = MappingProxyType({"local": LOCAL, "docker": DOCKER, "ssh": SSH, "slurm": SLURM})


def open_target(config: Mapping[str, Any] | str | None, *, alone: bool = False) -> ComputeTarget:
    """Return the target of a configuration: ``{"type": "local", "root": folder}``; ``"local"`` and None are this machine.

    ``alone``: the process has no other target, so libraries may be imported in part.

    :raises RequestError: an unknown type of target or option, or a value that is not of its option's kind.
    """
    fields = {"type": config or "local"} if not isinstance(config, Mapping) else dict(config)
    kind = fields.pop("type", "local")
    if kind not in OPTIONS:
        raise RequestError(f"unknown target {kind!r}; known: {', '.join(OPTIONS)}, names in muster.toml and connections")
    name = fields.pop("name", None) or kind
    require_known(OPTIONS[kind], fields, f"target {kind!r}")
    if alone and kind == "docker":
        import_module("muster.targets.docker.engine").skip_ssh_transport()
    target_class = getattr(import_module(f"muster.targets.{kind}.target"), f"{kind.title()}Target")
    target: ComputeTarget = target_class.from_fields(name, fields)
    return target
