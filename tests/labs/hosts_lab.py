"""HostsLab: jobs of a few lines on the hosts of a rack, with everything they leave there open to a test's eyes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import JobLab, new_job_id
from muster.core.handle import JobHandle
from muster.targets.ssh.target import SshTarget
from rack import Host, Rack
from store_server import wait_until

RESTING_LOOKS = 20  # in a row that find no connection


@dataclass(kw_only=True)
class HostsLab(JobLab):
    """An SSH target over all hosts of a rack, or some; ``fields`` are added to its configuration, ``extra`` to each host's."""

    rack: Rack
    hosts: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    # a root of the lab's own, so that no test sees another's queue
    root: str = field(default_factory=lambda: f"~/{new_job_id()}")

    @property
    def config(self) -> dict[str, Any]:
        """The target's configuration."""
        hosts = [host for host in self.rack.hosts if not self.hosts or host.name in self.hosts]
        return {
            "hosts": [{"name": h.name, "host": h.address, "gpus": 4, **self.extra.get(h.name, {})} for h in hosts],
            "user": "root",
            "key_file": str(self.rack.key_file),
            "known_hosts": self.rack.known_hosts,
            "root": self.root,
            **self.fields,
        }

    @property
    def target(self) -> SshTarget:
        return SshTarget.from_fields("ssh", self.config)

    # -- what is on the hosts

    def until_idle(self) -> None:
        """End the connections of other tests: those nobody uses any more, and those whose network was taken away.

        Of the latter a host hears nothing for hours. One that somebody still needs is made again, and closed when it rests.
        """
        for host in self.rack.hosts:
            host.drop_connections()
        rested = itertools.accumulate(self._rests(), lambda looks, rests: looks + 1 if rests else 0)
        wait_until(lambda: next(rested) > RESTING_LOOKS, 240.0, 0.1, "no connection is left")

    def _rests(self) -> Iterator[bool]:
        while True:
            yield not any(host.connections() for host in self.rack.hosts)

    def folder(self, host: Host) -> Path:
        """Return the lab's root folder on a host, as this machine sees it."""
        return host.home / self.root.removeprefix("~/")

    def node(self, handle: JobHandle, node: int = 0) -> tuple[Host, Path]:
        """Return the host of a node, and the node's folder."""
        name = f"{handle.id.folder}/node-{node}"
        for host in self.rack.hosts:
            folder = self.folder(host) / "jobs" / handle.job_id / name
            if folder.exists():
                return host, folder
        raise AssertionError(f"no host has {name} of {handle.job_id}")

    def log(self, handle: JobHandle, node: int = 0) -> str:
        try:
            return (self.node(handle, node)[1] / "events.jsonl").read_text(encoding="utf-8")
        except (AssertionError, FileNotFoundError):
            return ""

    def let_go(self, handle: JobHandle, name: str = "go") -> None:
        """Make a file in the work folder of every node, for ranks that wait for it."""
        for host in self.rack.hosts:
            for work in (self.folder(host) / "jobs" / handle.job_id).glob("g*-a*/node-*/work"):
                (work / name).touch()

    wait_for = JobLab.wait_for_line

    def queue(self) -> list[str]:
        """Return the jobs that wait for hosts or hold some."""
        file = self.folder(self.rack.hosts[0]) / "queue.json"
        return [entry["job"] for entry in json.loads(file.read_text())["entries"]] if file.exists() else []

    def close(self) -> None:
        """Bring every host up, and end whatever a failed test left there."""
        for host in self.rack.hosts:
            host.plug()
            host.boot()
        super().close()
