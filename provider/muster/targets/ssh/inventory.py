"""Inventory: the hosts that a connection names, each with its login, slots, GPUs and address on the training network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.errors import RequestError
from muster.core.plan import JobPlan
from muster.node.host.gang_scheduler import HostCapacity
from muster.targets.hosts.host_files import DEFAULT_PYTHON
from muster.targets.hosts.ssh_login import SshLogin
from muster.targets.options import DEFAULT_ROOT, parse_options
from muster.targets.ssh.options import HOST_OPTIONS, SHARED

CONN_ID = "ssh_conn_id"
HOST_FIELDS = tuple(option.name for option in HOST_OPTIONS)
_OWN = ("slots", "gpus", "address", "root", "python", "spare")  # of a host, beside name and login


@dataclass(frozen=True, kw_only=True)
class Host:
    """One host. ``slots``: ranks that it takes at once, 0 for as many as come; ``gpus``: devices that jobs may use.

    ``address``: where other nodes reach it; ``spare``: used only in place of a host that failed.
    """

    name: str
    login: SshLogin
    slots: int = 0
    gpus: tuple[str, ...] = ()
    address: str = ""
    root: str = DEFAULT_ROOT
    python: str = DEFAULT_PYTHON
    spare: bool = False

    @property
    def capacity(self) -> HostCapacity:
        """Return what the queue server needs to know of the host."""
        return HostCapacity(name=self.name, slots=self.slots, gpus=self.gpus, spare=self.spare)


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Hosts in order; the first keeps claims and queue, so it must stay the first."""

    hosts: tuple[Host, ...]

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Inventory:
        """Return the inventory of a configuration: its ``hosts``, or the one in ``host``.

        :raises RequestError: no host, a host twice, an unknown field, or a value that is not of its option's kind.
        """
        shared = {option.name: fields[option.name] for option in SHARED if fields.get(option.name) not in (None, "")}
        hosts = tuple(_host(given, shared) for given in listed_hosts(fields))
        if not hosts:
            raise RequestError("hosts is empty; name at least one, such as 'gpu-1 host=10.0.0.11 gpus=4'")
        names = [host.name for host in hosts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RequestError(f"host {twice[0]!r} is in the inventory twice; give each a name of its own")
        if hosts[0].spare:
            raise RequestError(f"host {names[0]!r} is the first, which keeps the queue, and can't be a spare one")
        return cls(hosts=hosts)

    @property
    def capacity(self) -> tuple[HostCapacity, ...]:
        """Return what the queue server needs to know of the hosts."""
        return tuple(host.capacity for host in self.hosts)

    def host(self, name: str) -> Host:
        """Return a host by its name.

        :raises RequestError: the inventory has none of that name (any more).
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise RequestError(f"host {name!r}, which the run was placed on, is not in the inventory any more; put it back")

    def check(self, plan: JobPlan, target: str) -> None:
        """Refuse a plan that these hosts could never take, however long it waited.

        :raises RequestError: with what was asked for and what there is.
        """
        slots, gpus, nodes = slots_of(plan), plan.needs.gpus, len(plan.nodes)
        able = [h for h in self.hosts if not h.spare and (not h.slots or h.slots >= slots) and len(h.gpus) >= gpus]
        if len(able) >= nodes:
            return
        request = (
            f"{nodes} node{'s' if nodes > 1 else ''}" + (f" with {gpus} GPUs" if gpus else "") + f" and {slots} processes each"
        )
        there = ", ".join(
            f"{h.name} ({h.slots or 'any number of'} slots, {len(h.gpus)} GPUs)" for h in self.hosts if not h.spare
        )
        raise RequestError(f"{request} were asked for, but target {target!r} has {len(able)} such hosts: {there}; ask for less")


def slots_of(plan: JobPlan) -> int:
    """Return the number of processes of the fullest node of a plan."""
    return max(len(node.ranks) for node in plan.nodes)


def listed_hosts(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of each host of a configuration: those in ``hosts``, else the one in ``host``.

    :raises RequestError: both are given, or the hosts can't be read.
    """
    hosts = given_hosts(fields.get("hosts"))
    only = {name: fields[name] for name in ("host", "host_key") if fields.get(name)}
    if hosts and only:
        name, value = next(iter(only.items()))
        raise RequestError(f"{name} = {value!r} is of one host, but hosts lists {len(hosts)}; put it into the host's line")
    return hosts or ([only] if "host" in only else [])


def given_hosts(hosts: object) -> list[dict[str, Any]]:
    """Return the hosts as fields; they may be written as lines of text, or as a list of lines or mappings.

    :raises RequestError: they can't be read.
    """
    if isinstance(hosts, str):
        lines = [line.strip() for line in hosts.splitlines()]
        return [_of_line(line) for line in lines if line and not line.startswith("#")]
    if isinstance(hosts, (list, tuple)):
        return [_of_line(host) if isinstance(host, str) else dict(host) for host in hosts]
    if hosts is None:
        return []
    raise RequestError(f"hosts must be lines or a list, got {type(hosts).__name__}; such as 'gpu-1 host=10.0.0.11 gpus=4'")


def _of_line(line: str) -> dict[str, Any]:
    """Read ``name key=value …``; a line that is one word names a host by its address."""
    try:
        name, *words = shlex.split(line)
        return {"name": name, **dict(word.split("=", 1) for word in words)}
    except ValueError as error:
        raise RequestError(f"hosts: {line!r} can't be read ({error}); write 'name host=… slots=8 gpus=4'") from error


def _host(given: Mapping[str, Any], shared: Mapping[str, Any]) -> Host:
    name = str(given.get("name") or given.get("host") or "")
    unknown = sorted(set(given) - set(HOST_FIELDS))
    if unknown:
        raise RequestError(f"host {name!r} has no option {unknown[0]!r}; it takes {', '.join(HOST_FIELDS)}")
    fields = {**shared, **{key: value for key, value in given.items() if value not in (None, "")}}
    if fields.get(CONN_ID):
        raise RequestError(f"host {name!r}: {CONN_ID} names a connection of Airflow, which is not here; give user and key_file")
    fields.setdefault("host", name)
    login = SshLogin.from_fields(fields, name=name)
    values = parse_options((option for option in HOST_OPTIONS if option.name in _OWN), fields, f"host {name!r}:")
    return Host(**{"address": login.host, **values, "name": name, "login": login})
