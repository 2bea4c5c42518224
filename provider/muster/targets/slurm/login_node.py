"""The login node of a cluster: this machine, or one at the end of an SSH connection; where its shared folder is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from muster.core.errors import RequestError
from muster.targets.hosts.connection import ShellFactory
from muster.targets.hosts.host_files import DEFAULT_PYTHON
from muster.targets.hosts.shell import LocalShell
from muster.targets.hosts.ssh_login import SshLogin
from muster.targets.options import DEFAULT_ROOT

LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class OwnShell(LocalShell):
    """This machine's shell, which nobody can lose."""

    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class ThisMachine:
    """A login that needs none."""

    async def open(self) -> OwnShell:
        """Return this machine's shell."""
        return OwnShell(machine="the login node (this machine)")


@dataclass(frozen=True, kw_only=True)
class LoginNode:
    """The machine on which Slurm's commands run. ``root``: a folder shared with the compute nodes; ``python`` is on all."""

    login: ShellFactory
    name: str = LOCAL
    root: str = DEFAULT_ROOT
    python: str = DEFAULT_PYTHON

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> LoginNode:
        """Read the fields of a configuration; without a host it is this machine.

        :raises RequestError: a login to this machine with a host, or one elsewhere without.
        """
        options = {name: str(fields[name]) for name in ("root", "python") if fields.get(name)}
        kind, host = str(fields.get("login") or ""), fields.get("host")
        if kind not in ("", LOCAL, "ssh"):
            raise RequestError(f"login = {kind!r} is neither 'local' nor 'ssh'; leave it out, or give the login node's host")
        if kind == LOCAL and host:
            raise RequestError(f"login is 'local', but host = {host!r} is given as well; leave one of them out")
        if not host:
            if kind == "ssh":
                raise RequestError("login is 'ssh', but no host is given; name the login node, or use login = 'local'")
            return cls(login=ThisMachine(), **options)
        login = SshLogin.from_fields(fields, name=str(host))
        return cls(login=cast("ShellFactory", login), name=str(host), **options)
