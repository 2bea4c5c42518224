"""Queueing: which waiting gang gets which hosts and GPUs, as a pure rule over the queue's entries and the inventory's hosts.

A gang gets all its hosts at once or none. The queue is in order: hosts that an older gang waits for are closed to younger ones,
so that none starves; a younger one passes it only over hosts that the older would not take.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Entry = dict[str, Any]  # of the queue's file; the fields are told in the keeper
HostData = dict[str, Any]  # {"name", "slots" (0: not counted), "gpus": [ids], "spare"}

WAITING, GRANTED, STARTING, LAUNCHED = "waiting", "granted", "starting", "launched"
ENDLESS = 1 << 30
PRESENCE = 120.0  # seconds after which a waiting gang that nobody asks for is passed over until somebody does


class Capacity:
    """What is free on every host."""

    def __init__(self, hosts: Sequence[HostData], entries: Iterable[Entry]) -> None:
        self._slots = {host["name"]: host["slots"] or ENDLESS for host in hosts}
        self._gpus = {host["name"]: list(host["gpus"]) for host in hosts}
        for entry in entries:
            if entry["state"] != WAITING:
                for place in entry["allocations"]:
                    self.take(place["host"], entry["slots"], place["gpus"])

    def take(self, host: str, slots: int, gpus: Iterable[str]) -> None:
        """Take slots and devices; of a host that the inventory has no more, nothing."""
        if host in self._slots:
            self._slots[host] -= slots
            self._gpus[host] = [gpu for gpu in self._gpus[host] if gpu not in set(gpus)]

    def fits(self, host: str, entry: Entry) -> bool:
        """Whether a node of the gang fits on a host now."""
        return bool(self._slots[host] >= entry["slots"] and len(self._gpus[host]) >= entry["gpus"])

    def place(self, host: str, entry: Entry) -> dict[str, Any]:
        """Take a node's part of a host."""
        gpus = self._gpus[host][: entry["gpus"]]
        self.take(host, entry["slots"], gpus)
        return {"host": host, "gpus": gpus, "folder": ""}

    def free(self, host: str, entry: Entry) -> tuple[int, int]:
        """Give how much of what a gang asks for is free, for comparing hosts; of what is not counted, all have as much."""
        slots = self._slots[host]
        return len(self._gpus[host]) if entry["gpus"] else 0, slots if slots < ENDLESS // 2 else 0


def schedule(entries: Sequence[Entry], hosts: Sequence[HostData], now: float) -> None:
    """Grant what can be granted; ``held`` of an entry that waits on are the hosts that it will take."""
    for entry in entries:
        if entry["state"] == GRANTED and not is_wanted(entry, now) and entry["until"] < now and not is_fixed(entry):
            entry.update(state=WAITING, allocations=[], held=[])
    capacity = Capacity(hosts, entries)
    closed: set[str] = set()
    for entry in sorted(entries, key=lambda entry: int(entry["number"])):
        if entry["state"] == WAITING and is_wanted(entry, now):
            closed |= _grant_or_hold(entry, hosts, capacity, closed, now)


def could_ever(entry: Entry, hosts: Sequence[HostData]) -> list[str]:
    """Give the hosts that could take a node of the gang if they were free; spares only in place of excluded ones."""
    if is_fixed(entry):
        return [place["host"] for place in entry["allocations"]]
    return [
        host["name"]
        for host in sorted(hosts, key=lambda host: bool(host["spare"]))
        if host["name"] not in entry["excluded"]
        and (not host["spare"] or entry["excluded"])
        and (host["slots"] or ENDLESS) >= entry["slots"]
        and len(host["gpus"]) >= entry["gpus"]
    ]


def is_fixed(entry: Entry) -> bool:
    """Whether an attempt stores what earlier ranks left on the hosts that it names: it takes nothing, and goes nowhere else."""
    return not entry["slots"]


def is_wanted(entry: Entry, now: float) -> bool:
    """Whether somebody has asked for an attempt lately."""
    return bool(entry["seen"] + PRESENCE >= now)


def _grant_or_hold(entry: Entry, hosts: Sequence[HostData], capacity: Capacity, closed: set[str], now: float) -> set[str]:
    able = could_ever(entry, hosts)
    fit = [host for host in able if host not in closed and capacity.fits(host, entry)]
    if len(fit) >= entry["nodes"]:
        spares = {host["name"] for host in hosts if host["spare"]}
        # a single node fills up a host that is in use, so that whole ones stay free; a gang spreads, since it needs many
        fit.sort(key=lambda host: capacity.free(host, entry), reverse=entry["nodes"] > 1)
        fit.sort(key=spares.__contains__)
        allocations = [capacity.place(host, entry) for host in fit[: entry["nodes"]]]
        entry.update(state=GRANTED, allocations=allocations, held=[], granted=now)
        return set()
    able = [host for host in able if host not in closed]
    kept = [host for host in entry["held"] if host in able]  # what it waits for stays closed, else others could take turns
    others = sorted((host for host in able if host not in kept), key=lambda host: capacity.free(host, entry), reverse=True)
    entry["held"] = (kept + others)[: entry["nodes"]]
    return set(entry["held"])
