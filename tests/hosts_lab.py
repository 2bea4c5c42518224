"""HostsLab: jobs of a few lines on the hosts of a rack, with everything they leave there open to a test's eyes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import plan_of
from muster.core.access import StoreAccess
from muster.core.event import END, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from muster.node import processes
from muster.runner import Outcome
from muster.store.run_store import RunStore
from muster.targets.contract import Submission
from muster.targets.ssh.target import SshTarget
from rack import Host, Rack
from store_server import Store, wait_until

_numbers = itertools.count()
RESTING_LOOKS = 20  # in a row that find no connection


@dataclass
class HostsLab:
    """An SSH target over all hosts of a rack, or some; ``fields`` are added to its configuration, ``extra`` to each host's."""

    rack: Rack
    store: Store
    hosts: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)
    handles: list[JobHandle] = field(default_factory=list)
    # a root of the lab's own, so that no test sees another's queue
    root: str = field(default_factory=lambda: f"~/lab-{os.getpid()}-{next(_numbers)}")

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

    def submission(self, plan: JobPlan, job_id: str = "", generation: int = 1, **options: Any) -> Submission:
        """Give what is submitted, by a new job id unless one is given."""
        access: StoreAccess = options.pop("access", None) or self.store.access
        return Submission(
            job_id=job_id or f"lab-{os.getpid()}-{next(_numbers)}",
            generation=generation,
            plan=plan,
            archive=options.pop("archive", None),
            access=access,
            requested=time.time(),
            **options,
        )

    def submit(self, plan: JobPlan, job_id: str = "", **options: Any) -> JobHandle:
        """Prepare the hosts and submit a plan."""
        target = self.target
        target.prepare(plan, lambda line: None)
        handle = target.submit(self.submission(plan, job_id, **options))
        self.handles.append(handle)
        return handle

    def run(self, code: str, **options: Any) -> tuple[Outcome, list[Event]]:
        """Submit code and wait for its end."""
        return self.wait(self.submit(plan_of(code, self.store.uri, **options)))

    def wait(self, handle: JobHandle, limit: float = 90.0, cursor: Cursor | None = None) -> tuple[Outcome, list[Event]]:
        """Wait for a run's end; gives the outcome and all events."""
        events = asyncio.run(asyncio.wait_for(self.events(handle, cursor), limit))
        assert [event.kind for event in events].count(END) == 1
        return Outcome.from_event(handle, events[-1]), events

    async def events(self, handle: JobHandle, cursor: Cursor | None = None) -> list[Event]:
        """Give all events of a run that is watched to its end."""
        return [event async for _, _, event in self.target.session().watch({handle: cursor or Cursor()})]

    # -- what is on the hosts

    def until_idle(self) -> None:
        """End the connections of other tests: those nobody uses any more, and those whose network was taken away.

        Of the latter a host hears nothing for hours. One that somebody still needs is made again, and closed when it rests.
        """
        for host in self.rack.hosts:
            host.drop_connections()
        rested = itertools.accumulate(self._rests(), lambda looks, rests: looks + 1 if rests else 0)
        wait_until(lambda: next(rested) > RESTING_LOOKS, 90.0, 0.1, "no connection is left")

    def _rests(self) -> Iterator[bool]:
        while True:
            yield not any(host.connections() for host in self.rack.hosts)

    def folder(self, host: Host) -> Path:
        """Give the lab's root folder on a host, as this machine sees it."""
        return host.home / self.root.removeprefix("~/")

    def node(self, handle: JobHandle, node: int = 0) -> tuple[Host, Path]:
        """Give the host of a node, and the node's folder."""
        name = f"g{handle.generation}-a{handle.attempt}/node-{node}"
        for host in self.rack.hosts:
            folder = self.folder(host) / "jobs" / handle.job_id / name
            if folder.exists():
                return host, folder
        raise AssertionError(f"no host has {name} of {handle.job_id}")

    def log(self, handle: JobHandle, node: int = 0) -> str:
        """Give a node's event log."""
        try:
            return (self.node(handle, node)[1] / "events.jsonl").read_text(encoding="utf-8")
        except (AssertionError, FileNotFoundError):
            return ""

    def wait_for(self, handle: JobHandle, text: str = '"k": "line"', node: int = 0, limit: float = 60.0) -> None:
        """Wait until a node's log has a text."""
        wait_until(lambda: text in self.log(handle, node), limit, 0.05, f"{text!r} in the log of node {node}")

    def living(self, handle: JobHandle) -> list[int]:
        """Give every process of the run on any host."""
        return processes.marked(f"MUSTER_JOB={handle.job_id}/g{handle.generation}/a{handle.attempt}")

    def queue(self) -> list[str]:
        """Give the jobs that wait for hosts or hold some."""
        import json

        file = self.folder(self.rack.hosts[0]) / "queue.json"
        return [entry["job"] for entry in json.loads(file.read_text())["entries"]] if file.exists() else []

    def record(self, handle: JobHandle) -> dict[str, Any]:
        """Give the run's record in the store."""
        return RunStore(self.store.uri, self.store.access).record(handle.job_id, handle.generation)

    def close(self) -> None:
        """Bring every host up, and end whatever a failed test left there."""
        for host in self.rack.hosts:
            host.plug()
            host.boot()
        for handle in self.handles:
            processes.send(self.living(handle), 9)
