"""Inventory: the hosts that a connection names, each with its login, slots, GPUs and address on the training network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.errors import RequestError
from muster.core.plan import JobPlan
from muster.targets.hosts.host_files import DEFAULT_PYTHON
from muster.targets.hosts.ssh_login import FIELDS as LOGIN_FIELDS
from muster.targets.hosts.ssh_login import SshLogin

DEFAULT_ROOT = "~/.muster"
OWN = ("name", "slots", "gpus", "address", "root", "python", "spare", "host_key_check", "ssh_conn_id")
CONN_ID = "ssh_conn_id"
HOST_FIELDS = (*OWN, *LOGIN_FIELDS)
DEFAULTS = tuple(field for field in HOST_FIELDS if field not in ("name", "host", "address", "spare", "host_key", CONN_ID))
FIELDS = frozenset({"hosts", *DEFAULTS})


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
    def data(self) -> dict[str, Any]:
        """Give what the keeper needs to know."""
        return {"name": self.name, "slots": self.slots, "gpus": list(self.gpus), "spare": self.spare}


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Hosts in order; the first keeps claims and queue, so it must stay the first."""

    hosts: tuple[Host, ...]

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Inventory:
        """Read the fields of a configuration.

        :raises RequestError: no host, a host twice, an unknown field, or a value that it can't have.
        """
        defaults = {name: fields[name] for name in DEFAULTS if fields.get(name) not in (None, "")}
        hosts = tuple(_host(given, defaults) for given in given_hosts(fields.get("hosts")))
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
    def data(self) -> list[dict[str, Any]]:
        """Give what the keeper needs to know."""
        return [host.data for host in self.hosts]

    def host(self, name: str) -> Host:
        """Give a host by its name.

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
        wish = (
            f"{nodes} node{'s' if nodes > 1 else ''}" + (f" with {gpus} GPUs" if gpus else "") + f" and {slots} processes each"
        )
        there = ", ".join(
            f"{h.name} ({h.slots or 'any number of'} slots, {len(h.gpus)} GPUs)" for h in self.hosts if not h.spare
        )
        raise RequestError(f"{wish} were asked for, but target {target!r} has {len(able)} such hosts: {there}; ask for less")


def slots_of(plan: JobPlan) -> int:
    """Give how many processes the fullest node of a plan has."""
    return max(len(node.ranks) for node in plan.nodes)


def given_hosts(hosts: object) -> list[dict[str, Any]]:
    """Give the hosts as fields, however they were written: lines of text, or a list of lines or mappings.

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


def _host(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Host:
    name = str(given.get("name") or given.get("host") or "")
    unknown = sorted(set(given) - set(HOST_FIELDS))
    if unknown:
        raise RequestError(f"host {name!r} has no field {unknown[0]!r}; it takes {', '.join(HOST_FIELDS)}")
    fields = {**defaults, **{key: value for key, value in given.items() if value not in (None, "")}}
    if fields.get(CONN_ID):
        raise RequestError(f"host {name!r}: {CONN_ID} names a connection of Airflow, which is not here; give user and key_file")
    fields.setdefault("host", name)
    check = _switch(name, "host_key_check", fields.get("host_key_check", True))
    login = SshLogin.from_fields(fields, name=name, host_key_check=check)
    return Host(
        name=name,
        login=login,
        slots=_count(name, "slots", fields.get("slots", 0)),
        gpus=_gpus(name, fields.get("gpus", 0)),
        address=str(fields.get("address") or login.host),
        root=str(fields.get("root") or DEFAULT_ROOT),
        python=str(fields.get("python") or DEFAULT_PYTHON),
        spare=_switch(name, "spare", fields.get("spare", False)),
    )


def _switch(host: str, field: str, value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "yes", "1", "false", "no", "0"):
        raise RequestError(f"host {host!r}: {field} = {value!r} must be true or false")
    return text in ("true", "yes", "1")


def _count(host: str, field: str, value: Any) -> int:
    text = str(value).strip()
    if not text.isdigit():
        raise RequestError(f"host {host!r}: {field} = {value!r} is no number")
    return int(text)


def _gpus(host: str, value: Any) -> tuple[str, ...]:
    """Read a number of devices, or their ids."""
    if isinstance(value, (list, tuple)):
        return tuple(str(gpu) for gpu in value)
    text = str(value).strip()
    if "," in text:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return tuple(str(number) for number in range(_count(host, "gpus", text)))
