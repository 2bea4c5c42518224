"""Which network a job trains over, by what its nodes are on."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import pytest

from muster.node.preflight import network
from muster.node.preflight.network import INFINIBAND, LOOPBACK, OTHER, Choice, Interface, NoNetwork, choose


@dataclass(frozen=True)
class NetworkNode:
    """A node as the choice sees it."""

    node: int
    address: str
    interfaces: tuple[Interface, ...]
    host: str


def lo() -> Interface:
    return Interface(name="lo", address="127.0.0.1", network="127.0.0.0/8", kind=LOOPBACK)


def docker0() -> Interface:
    return Interface(name="docker0", address="172.17.0.1", network="172.17.0.0/16", speed=10000)


def net(name: str, third: int, node: int, **more: object) -> Interface:
    return Interface(name=name, address=f"10.0.{third}.{node + 1}", network=f"10.0.{third}.0/24", **more)  # type: ignore[arg-type]


def seat(node: int, *more: Interface, speed: int = 1000, host: str = "") -> NetworkNode:
    """Return a node whose agents meet over eth0."""
    return NetworkNode(
        node, f"10.0.0.{node + 1}", (lo(), docker0(), net("eth0", 0, node, speed=speed), *more), host or f"host{node}"
    )


def test_the_network_of_the_mesh_is_the_usual_choice() -> None:
    choice = choose("", [seat(1), seat(0)])
    expected = Choice(addresses=("10.0.0.1", "10.0.0.2"), interfaces=("eth0", "eth0"), networks=("10.0.0.0/24",))
    assert choice == expected


def test_a_faster_network_that_all_are_on_is_taken_and_said() -> None:
    choice = choose("", [seat(n, net(f"ens{n}", 1, n, speed=25000)) for n in range(2)])
    assert choice.addresses == ("10.0.1.1", "10.0.1.2")
    assert choice.interfaces == ("ens0", "ens1")
    assert choice.networks == ("10.0.1.0/24",)
    assert choice.note == "training over 10.0.1.0/24 (ens0/ens1, ethernet, 25 Gbit/s); the agents met over 10.0.0.0/24"
    assert [here["interface"] for here in choice.local_bindings()] == ["ens0", "ens1"]
    assert {here["common_interface"] for here in choice.local_bindings()} == {""}


def test_infiniband_comes_before_speed() -> None:
    fast, ib = (lambda n: net("eth1", 1, n, speed=100000)), (lambda n: net("ib0", 2, n, kind=INFINIBAND, speed=40000))
    choice = choose("", [seat(n, fast(n), ib(n)) for n in range(3)])
    assert set(choice.interfaces) == {"ib0"}
    assert {here["common_interface"] for here in choice.local_bindings()} == {"ib0"}
    assert choose("", [seat(0, ib(0)), seat(1)]).interfaces == ("eth0", "eth0"), "one node is not on it"


def test_speeds_that_nobody_knows_change_nothing() -> None:
    assert choose("", [seat(n, net("eth1", 1, n, speed=10), speed=0) for n in range(2)]).interfaces == ("eth0", "eth0")
    assert choose("", [seat(n, net("eth1", 1, n, speed=0)) for n in range(2)]).interfaces == ("eth0", "eth0")


def test_bridges_and_tunnels_are_never_chosen() -> None:
    tunnel = [net("tun0", 3, n, kind=OTHER, speed=100000) for n in range(2)]
    assert choose("", [seat(n, tunnel[n]) for n in range(2)]).interfaces == ("eth0", "eth0")


def test_nodes_of_different_networks_keep_those_they_met_over() -> None:
    seats = [NetworkNode(n, f"10.0.{n}.1", (lo(), docker0(), net("eth0", n, 0)), f"host{n}") for n in range(2)]
    choice = choose("", seats)
    assert choice.addresses == ("10.0.0.1", "10.0.1.1")
    assert choice.local_bindings()[0]["network"] == "10.0.0.0/24,10.0.1.0/24"


def test_nodes_of_one_machine_keep_their_loopback_addresses() -> None:
    seats = [NetworkNode(n, f"127.5.6.{n + 1}", (lo(), docker0(), net("eth0", 0, 0)), "one") for n in range(2)]
    choice = choose("", seats)
    assert choice.addresses == ("127.5.6.1", "127.5.6.2")
    assert choice.networks == ("127.0.0.0/8",)
    assert choice.local_bindings()[0] == {"interface": "lo", "network": "127.0.0.0/8", "common_interface": ""}
    named = choose("eth0", seats)
    assert named.addresses == ("127.5.6.1", "127.5.6.2")
    assert named.interfaces == ("eth0", "eth0")


def test_a_single_node_keeps_its_address() -> None:
    assert choose("", [seat(0, net("ib0", 2, 0, kind=INFINIBAND))]).interfaces == ("eth0",)
    assert choose("ib0", [seat(0, net("ib0", 2, 0, kind=INFINIBAND))]).addresses == ("10.0.2.1",)


def test_the_named_interface_is_taken_whatever_its_speed() -> None:
    choice = choose("eth1", [seat(n, net("eth1", 1, n, speed=10)) for n in range(2)])
    assert choice.addresses == ("10.0.1.1", "10.0.1.2")
    assert choice.note == ""


def test_a_node_without_the_named_interface_is_named_with_what_it_has() -> None:
    with pytest.raises(NoNetwork, match="no network interface 'ib0' with an IPv4 address; it has lo, docker0, eth0") as refused:
        choose("ib0", [seat(0, net("ib0", 2, 0)), seat(1)])
    assert refused.value.node == 1


def test_a_named_interface_with_one_address_everywhere_is_refused() -> None:
    with pytest.raises(NoNetwork, match=r"172\.17\.0\.1 on interface 'docker0' is that of node 0 as well"):
        choose("docker0", [seat(0), seat(1)])


def test_this_machine_has_a_loopback_interface() -> None:
    found = network.interfaces()
    assert Interface(name="lo", address="127.0.0.1", network="127.0.0.0/8", kind=LOOPBACK) in found
    assert {i.name for i in found} <= {name for _, name in socket.if_nameindex()}
    assert network.own_interface("127.9.9.9", found) == "lo"
    assert network.own_interface("203.0.113.1", found) == ""
