"""HostLab: SSH hosts as the contract suite sees them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from contract.labs import faults
from contract.suite.target_lab import TargetLab
from hosts_lab import HostsLab
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan
from muster.node.host.gang_scheduler import LAUNCHED
from rack import Host
from store_server import wait_until

ROOT = "~/contract"  # on every host, the same for all tests: what is cached there is sent once
SKEWED = Path("/root/skewed-python")
SMALL_DISK = "/root/small-disk"
SSHD = ("-p", "tcp", "--dport", "22")
CONNECTING = "02"  # of /proc/net/tcp: a connection is asked for


@dataclass
class HostLab(TargetLab[HostsLab]):
    """A target on all hosts of the rack."""

    small_disk_node = 1  # the first host keeps the queue
    _disks: list[Host] = field(default_factory=list)

    def launches(self, handle: JobHandle) -> int:
        return sum(job == handle.job_id for job in self.jobs.queue())

    def left(self, handle: JobHandle) -> list[str]:
        """Name processes, and a place in the queue; one that was launched ends with its agents, for whoever looks next."""
        queue = self.jobs.folder(self.jobs.rack.hosts[0]) / "queue.json"
        entries = json.loads(queue.read_text(encoding="utf-8"))["entries"] if queue.exists() else []
        waits = [f"{e['state']} in the queue" for e in entries if e["job"] == handle.job_id and e["state"] != LAUNCHED]
        return [*waits, *(f"process {pid}" for pid in self.jobs.living(handle))]

    def short_of_memory(self, plan: JobPlan, limit: int) -> JobPlan:
        return faults.short_of_memory(plan, limit)

    def small_disk(self, plan: JobPlan, size: int) -> JobPlan:
        """Mount a small disk in the second host's own view of its files, and keep everything of that host on it."""
        host = self.jobs.rack.hosts[self.small_disk_node]
        self._on(host, "mkdir", "-p", SMALL_DISK)
        self._on(host, "mount", "-t", "tmpfs", "-o", f"size={size}", "muster-tests", SMALL_DISK)
        self._disks.append(host)
        self.jobs.extra[host.name] = {"root": SMALL_DISK}
        self._use_hosts_of(plan)
        return plan

    def skew_clock(self, plan: JobPlan, node: int, seconds: int) -> JobPlan:
        """Start agents on a host as a Python with another clock."""
        host, python = self.jobs.rack.hosts[node], "/usr/bin/python3"
        # only them: libfaketime fails in some of the sleeps that the steward needs (EINVAL of clock_nanosleep)
        when = 'case " $* " in *" agent "*) true ;; *) false ;; esac'
        faults.skewed_python(host.home / SKEWED.name, python, seconds, faults.libfaketime(), when=when, name=SKEWED)
        self.jobs.extra[host.name] = {"python": str(SKEWED)}
        self._use_hosts_of(plan)
        return plan

    def lose_node(self, handle: JobHandle, node: int) -> None:
        """Reboot the host: all its processes are gone at once."""
        self.jobs.node(handle, node)[0].reboot()

    def let_go(self, handle: JobHandle) -> None:
        self.jobs.let_go(handle)

    @contextmanager
    def connection_lost(self) -> Iterator[None]:
        """Filter everything to the hosts' sshd, and drop every connection; the hosts still reach each other."""
        hosts = self.jobs.rack.hosts
        try:
            for host in hosts:
                host.filter("-A", *SSHD, "-j", "DROP")
            assert sum(host.drop_connections() for host in hosts) > 0
            wait_until(self._tries_to_connect, every=0.005, what="a new connection to a host was tried")
            yield
        finally:
            for host in hosts:
                host.filter("-F")

    def close(self) -> None:
        try:
            super().close()
        finally:
            for host in self._disks:
                self._on(host, "umount", "--lazy", SMALL_DISK)

    def _use_hosts_of(self, plan: JobPlan) -> None:
        """Use no other hosts than a plan has nodes, so that each node is on the host of its number."""
        self.jobs.hosts = tuple(host.name for host in self.jobs.rack.hosts[: len(plan.nodes)])

    @staticmethod
    def _on(host: Host, *argv: str) -> None:
        subprocess.run(["nsenter", f"--target={host.processes()[0]}", "--mount", "--pid", "--", *argv], check=True)

    def _tries_to_connect(self) -> bool:
        """Return whether somebody here is waiting for a host's answer."""
        addresses = {_hex(host.address) for host in self.jobs.rack.hosts}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        return any(row[3] == CONNECTING and row[2] in {f"{address}:0016" for address in addresses} for row in rows)


def _hex(address: str) -> str:
    """Return an IPv4 address as /proc/net/tcp shows it."""
    return "".join(f"{int(part):02X}" for part in reversed(address.split(".")))


@contextmanager
def open_lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[HostLab]:
    """Yield the lab for one test."""
    rack, store = request.getfixturevalue("rack"), request.getfixturevalue("rack_store")
    lab = HostLab(jobs=HostsLab(rack=rack, store=store, root=ROOT), folder=folder)
    try:
        yield lab
    finally:
        lab.close()
