"""The training network on real nodes: chosen once, by name or by what is there, and told to every rank."""

from __future__ import annotations

import dataclasses
import ipaddress

from docker_lab import DockerLab
from lab import Lab, lines, plan_of
from muster.core.event import Event
from muster.core.placeholder import Here
from muster.core.plan import JobPlan
from muster.core.state import RunState
from muster.core.verdict import Cause

SAY = "import os; print(os.environ['MUSTER_HOSTS'], os.environ['INTERFACE'], os.environ['NETWORK'])"


def plan(store: str, interface: str = "") -> JobPlan:
    """Return a plan of two nodes whose ranks say what they were told of the network."""
    told = (("INTERFACE", (Here(here="interface"),)), ("NETWORK", (Here(here="network"),)))
    found = plan_of(SAY, store, nodes=2)
    nodes = (
        dataclasses.replace(node, ranks=tuple(dataclasses.replace(rank, env=told) for rank in node.ranks))
        for node in found.nodes
    )
    return dataclasses.replace(found, nodes=tuple(nodes), network_interface=interface)


def interfaces(events: list[Event], node: int) -> dict[str, dict[str, str]]:
    """Return what a node reported of its interfaces, by name."""
    facts = next(e.data["facts"] for e in events if e.kind == "facts" and e.node == node)
    return {interface["name"]: interface for interface in facts["interfaces"]}


def test_nodes_of_one_machine_train_over_loopback(lab: Lab) -> None:
    outcome, events = lab.wait(lab.submit(plan(lab.store.uri)))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    for rank in range(2):
        hosts, interface, network = lines(events, rank)[0].split()
        assert all(host.startswith("127.") for host in hosts.split(","))
        assert (interface, network) == ("lo", "127.0.0.0/8")


def test_an_interface_that_a_node_lacks_is_refused_with_what_it_has(lab: Lab) -> None:
    outcome, events = lab.wait(lab.submit(plan(lab.store.uri, "ib7")))
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.PREFLIGHT
    assert "node 0" in outcome.verdict.detail
    assert "no network interface 'ib7' with an IPv4 address; it has lo" in outcome.verdict.detail
    assert not [e for e in events if e.kind == "rank_start"]


def test_containers_train_over_the_network_they_met_over_or_the_named_one(docker_lab: DockerLab) -> None:
    outcome, events = docker_lab.wait(docker_lab.submit(plan(docker_lab.store.uri)))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    met, interface, network = lines(events, 0)[0].split()
    seen = interfaces(events, 0)
    assert network == seen[interface]["network"]
    assert all(ipaddress.ip_address(host) in ipaddress.ip_network(network) for host in met.split(","))
    other = next(name for name in seen if name not in ("lo", interface))
    outcome, events = docker_lab.wait(docker_lab.submit(plan(docker_lab.store.uri, other)))
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    for rank in range(2):
        hosts, interface, network = lines(events, rank)[0].split()
        assert interface == other
        assert network == interfaces(events, rank)[other]["network"]
        assert hosts.split(",") == [interfaces(events, node)[other]["address"] for node in range(2)]
