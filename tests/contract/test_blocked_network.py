"""Nodes that can't reach each other: agents on hosts with networks of their own, real firewalls and routes between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab, lines, plan_of
from muster.core.codec import canonical
from muster.core.paths import NodePaths
from muster.core.verdict import Cause, Verdict
from muster.node.assignment import Assignment
from muster.node.host.clean_environment import clean_environment
from muster.node.private_files import write_private
from muster.targets.local import ledger as local_ledger
from rack import Host, Rack
from store_server import Store

IN_HOST = 'hostname "$1"; shift; exec ip netns exec "$@"'
NODES = 3
SOONER = 100.0  # seconds


def start_on(host: Host, paths: NodePaths, assignment: Assignment, entry: Path) -> None:
    """Start a node's guardian in the network of a host, under its name."""
    write_private(paths.assignment, canonical(assignment))
    guardian = [sys.executable, "-I", "-S", str(entry), "guardian", str(paths.root)]
    become = ["unshare", "--uts", "sh", "-c", IN_HOST, "sh", host.name, host.namespace, *guardian]
    with paths.diagnostics.open("ab") as log:
        argv = ["/bin/sh", "-c", '"$@" &', "sh", *become]
        environment = clean_environment(assignment.id.marker)
        subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, check=True
        )


@pytest.fixture
def net_lab(rack: Rack, rack_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Yield a lab whose nodes are on the hosts of the rack, one on each; their firewalls are open again afterwards."""
    lab = Lab(root=tmp_path / "machine", store=rack_store)
    monkeypatch.setattr(local_ledger, "loopback_address", lambda job, node: rack.hosts[node].address)
    monkeypatch.setattr(
        local_ledger,
        "start_agent",
        lambda paths, assignment, entry: start_on(rack.hosts[assignment.node], paths, assignment, entry),
    )
    yield lab
    lab.close()
    for host in rack.hosts[:NODES]:
        host.filter("-F")
        inside(host, "ip", "route", "flush", "type", "unreachable")


def inside(host: Host, *argv: str) -> None:
    path = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    subprocess.run(["ip", "netns", "exec", host.namespace, *argv], check=True, capture_output=True, env=path)


def run(lab: Lab) -> Verdict:
    """Run a job of three nodes; gives why it failed, which is seen sooner than nodes are waited for or the kernel gives up."""
    outcome, events = lab.wait(lab.submit(plan_of("print('started')", lab.store.uri, nodes=NODES)))
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.PREFLIGHT, outcome.verdict
    assert not lines(events)
    assert events[-1].time - min(event.time for event in events) < SOONER
    return outcome.verdict


def test_hosts_that_reach_each_other_train(net_lab: Lab, rack: Rack) -> None:
    outcome, events = net_lab.wait(
        net_lab.submit(plan_of("import socket; print(socket.gethostname())", net_lab.store.uri, NODES))
    )
    assert outcome.verdict is None
    assert sorted(lines(events)) == [host.name for host in rack.hosts[:NODES]]


def test_a_port_that_a_firewall_swallows_is_named_with_both_nodes(net_lab: Lab, rack: Rack) -> None:
    first, _, last = rack.hosts[:NODES]
    first.filter("-A", "-s", last.address, "-p", "tcp", "--dport", "6105:6200", "-j", "DROP")
    verdict = run(net_lab)
    assert (verdict.node, verdict.host) == (0, first.name)
    reason = f"node 2 ({last.name}) can't reach port 6105 of {first.address}: no answer; open its firewall"
    assert verdict.summary().startswith(f"node 0 ({first.name}) does not fit: {reason}")


def test_a_host_that_refuses_everyone_is_the_only_one_named(net_lab: Lab, rack: Rack) -> None:
    middle = rack.hosts[1]
    middle.filter("-A", "-p", "tcp", "--syn", "-j", "REJECT")
    verdict = run(net_lab)
    assert [(violation.node, violation.host) for violation in verdict.violations] == [(1, middle.name)]
    assert "can't reach port" in verdict.detail
    assert "refused" in verdict.detail
    assert "(and so with 1 more nodes)" in verdict.detail


def test_a_missing_route_is_named(net_lab: Lab, rack: Rack) -> None:
    _, middle, last = rack.hosts[:NODES]
    inside(last, "ip", "route", "add", "unreachable", f"{middle.address}/32")
    verdict = run(net_lab)
    assert [(violation.node, violation.host) for violation in verdict.violations] == [(2, last.name)]
    assert "it can't reach port" in verdict.detail
    assert f"of {middle.address}, node 1 ({middle.name}): no route to it" in verdict.detail


def test_a_node_that_can_not_reach_the_leader_tells_why(net_lab: Lab, rack: Rack) -> None:
    first, middle, _ = rack.hosts[:NODES]
    first.filter("-A", "-s", middle.address, "-p", "tcp", "--syn", "-j", "DROP")
    verdict = run(net_lab)
    assert [violation.node for violation in verdict.violations] == [1]
    assert f"it can't reach node 0 at {first.address}: no answer on ports" in verdict.detail


def test_a_node_that_is_cut_off_both_ways_is_named(net_lab: Lab, rack: Rack) -> None:
    first, middle, _ = rack.hosts[:NODES]
    first.filter("-A", "-s", middle.address, "-j", "DROP")
    verdict = run(net_lab)
    assert [violation.node for violation in verdict.violations] == [1]
    assert f"node 0 can't reach it at {middle.address}: no answer" in verdict.detail
