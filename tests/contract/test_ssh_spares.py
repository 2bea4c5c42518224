"""Spare hosts: one that does not fit beside the others is replaced before anything starts, and nothing is left on it."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hosts_lab import HostsLab
from lab import lines, notes, plan_of
from muster.core.errors import RequestError
from muster.core.plan import EnvironmentRef, JobPlan
from muster.core.state import RunState
from muster.node import mesh
from muster.node.preflight.reachability import Endpoint
from muster.packaging.code import snapshot
from muster.targets.ssh import preflight
from rack import Host
from store_server import wait_until

NAMES = "import socket; print(socket.gethostname())"


@pytest.fixture
def lab(hosts_lab: HostsLab) -> Iterator[HostsLab]:
    """Two hosts and a spare one; firewalls and routes are open again afterwards."""
    hosts_lab.extra = {"rack-3": {"spare": True}}
    yield hosts_lab
    for host in hosts_lab.rack.hosts:
        host.filter("-F")
        inside(host, "ip", "route", "flush", "type", "unreachable")


def inside(host: Host, *argv: str) -> str:
    path = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    command = ["ip", "netns", "exec", host.namespace, *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=path).stdout


def completed(lab: HostsLab, plan: JobPlan, archive: Path | None = None, job_id: str = "") -> tuple[list[str], str]:
    """Run a job to its good end, with nothing left on a host that was replaced; gives what ranks print, and what is told."""
    handle = lab.submit(plan, job_id, archive=archive)
    assert handle.attempt == 1
    for host in lab.rack.hosts:
        wait_until(lambda host=host: not any("probe" in command(pid) for pid in host.processes()), what="the probes have left")
        folders = list(lab.folder(host).glob(f"jobs/{handle.job_id}/g*/node-*"))
        listening = inside(host, "ss", "-Hltn", "sport", "!=", "22") if not folders else ""
        assert listening == "", f"{host.name} has no agent, and somebody listens there"
        assert list(lab.folder(host).glob("jobs/.*")) == []
    outcome, events = lab.wait(handle)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    return sorted(lines(events)), notes(events)


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_a_host_that_another_can_not_reach_is_replaced(lab: HostsLab) -> None:
    first, second, _ = lab.rack.hosts
    second.filter("-A", "-s", first.address, "-j", "DROP")
    hosts, told = completed(lab, plan_of(NAMES, lab.store.uri, nodes=2))
    assert hosts == ["rack-1", "rack-3"]
    assert "host rack-2 was replaced: host rack-2 does not fit: " in told
    assert "no answer; open its firewall for the nodes of a job" in told


def test_a_host_without_a_route_to_another_is_replaced(lab: HostsLab) -> None:
    first, second, _ = lab.rack.hosts
    inside(second, "ip", "route", "add", "unreachable", f"{first.address}/32")
    hosts, told = completed(lab, plan_of(NAMES, lab.store.uri, nodes=2))
    assert hosts == ["rack-1", "rack-3"]
    assert "host rack-2 was replaced: host rack-2 does not fit: it can't reach port" in told
    assert "node 0 (rack-1): no route to it; " in told


def test_the_leaders_host_is_replaced_if_it_is_the_one_that_lets_nobody_in(lab: HostsLab) -> None:
    first, _, third = lab.rack.hosts
    lab.extra = {"rack-2": {"spare": True}}
    for port in mesh.ports_of("closed/g1/a1"):
        first.filter("-A", "-p", "tcp", "--dport", str(port), "-j", "REJECT")
    hosts, told = completed(lab, plan_of(NAMES, lab.store.uri, nodes=2), job_id="closed")
    assert hosts == ["rack-2", "rack-3"]
    reason = f"node 1 ({third.name}) can't reach port {mesh.ports_of('closed/g1/a1')[0]} of {first.address}: refused"
    assert f"host rack-1 was replaced: host rack-1 does not fit: {reason}" in told


def test_with_a_spare_host_that_does_not_fit_either_the_job_fails_by_name(lab: HostsLab) -> None:
    for host in lab.rack.hosts[1:]:
        host.filter("-A", "-p", "tcp", "--syn", "!", "--dport", "22", "-j", "REJECT")
    with pytest.raises(RequestError, match=r"host rack-3 does not fit: node 0 \(rack-1\) can't reach port \d+ of .*: refused"):
        lab.submit(plan_of(NAMES, lab.store.uri, nodes=2))
    assert lab.queue() == []


def test_a_host_with_other_packages_is_replaced(lab: HostsLab) -> None:
    for host, torch in zip(lab.rack.hosts, ("2.4.1", "2.3.0", "2.4.1"), strict=True):
        env = lab.folder(host) / "env"
        (env / "lib" / "python3.11" / "site-packages" / f"torch-{torch}.dist-info").mkdir(parents=True)
        (env / "bin").mkdir()
        (env / "bin" / "python").symlink_to("/usr/bin/python3")
    plan = plan_of(NAMES, lab.store.uri, nodes=2)
    own = EnvironmentRef(interpreter=f"/root/{lab.root.removeprefix('~/')}/env/bin/python")
    hosts, told = completed(lab, replace(plan, environment=own))
    assert hosts == ["rack-1", "rack-3"]
    other = "its environment is not that of the others: torch-2.3.0 instead of torch-2.4.1; "
    assert f"host rack-2 was replaced: host rack-2 does not fit: {other}" in told


def test_a_host_with_other_code_is_replaced(lab: HostsLab, tmp_path: Path) -> None:
    taken = []
    for name, text in (("ours", "print('ours')"), ("changed", "print('changed')")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(text)
        taken.append(snapshot.pack(tmp_path / name, tmp_path / "cache"))
    ours, changed = taken
    there = lab.folder(lab.rack.hosts[1]) / "snapshots"
    there.mkdir(parents=True)
    (there / ours.archive.name).write_bytes(changed.archive.read_bytes())
    code = "import pathlib, socket; exec(pathlib.Path('train.py').read_text()); print(socket.gethostname())"
    plan = replace(plan_of(code, lab.store.uri, nodes=2), snapshot=ours.digest)
    printed, told = completed(lab, plan, archive=ours.archive)
    assert printed == ["ours", "ours", "rack-1", "rack-3"]
    assert "host rack-2 was replaced: host rack-2 does not fit: its code is not what was submitted: sha256:" in told


def test_a_connection_that_is_lost_meanwhile_costs_no_host(lab: HostsLab, monkeypatch: pytest.MonkeyPatch) -> None:
    real, dropped = preflight.NodeProbes.inspect, []

    async def inspect(self: preflight.NodeProbes, *given: Any) -> Endpoint:
        if not dropped:
            dropped.append(await asyncio.to_thread(lab.rack.hosts[1].drop_connections))
        return await real(self, *given)

    monkeypatch.setattr(preflight.NodeProbes, "inspect", inspect)
    hosts, told = completed(lab, plan_of(NAMES, lab.store.uri, nodes=2))
    assert dropped[0] >= 1, "the test has dropped nothing"
    assert hosts == ["rack-1", "rack-2"]
    assert "replaced" not in told
