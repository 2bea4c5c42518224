"""Which waiting gang gets which hosts: all at once, in order, and none starves."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

from muster.node.host.gang_scheduler import (
    GRANTED,
    LAUNCHED,
    WAITING,
    Allocation,
    HostCapacity,
    QueueEntry,
    possible_hosts,
    schedule,
)

_numbers = itertools.count(1)


def host(name: str, gpus: int = 4, slots: int = 0, spare: bool = False) -> HostCapacity:
    return HostCapacity(name=name, slots=slots, gpus=tuple(str(n) for n in range(gpus)), spare=spare)


def gang(nodes: int, gpus: int = 2, slots: int = 1, **fields: Any) -> QueueEntry:
    number = next(_numbers)
    entry = QueueEntry(
        number=number, job=f"j{number}", generation=1, attempt=1, nodes=nodes, gpus=gpus, slots=slots, state=WAITING
    )
    return replace(entry, **fields)


def hosts_of(entry: QueueEntry) -> list[str]:
    return [allocation.host for allocation in entry.allocations]


HOSTS = [host("a"), host("b"), host("c")]


def test_a_gang_gets_all_its_hosts_or_none() -> None:
    first, second = gang(3, gpus=4), gang(2)
    first, second = schedule([first, second], HOSTS, 7.0)
    assert (hosts_of(first), first.granted) == (["a", "b", "c"], 7.0)
    assert (second.state, second.allocations, second.granted) == (WAITING, (), 0.0)
    assert len(second.held) == 2


def test_no_device_is_given_twice_and_hosts_are_shared() -> None:
    gangs = schedule([gang(2) for _ in range(3)], HOSTS, 0.0)
    given = [(allocation.host, gpu) for entry in gangs for allocation in entry.allocations for gpu in allocation.gpus]
    assert all(entry.state == GRANTED for entry in gangs)
    assert len(given) == len(set(given)) == 12


def test_a_single_node_fills_up_a_host_that_is_in_use() -> None:
    first, second = schedule([gang(1), gang(1)], HOSTS, 0.0)
    assert hosts_of(first) == hosts_of(second)


def test_where_nothing_is_counted_hosts_are_taken_in_the_inventory_s_order() -> None:
    _, *gangs = schedule([gang(1, gpus=2), *(gang(2, gpus=0) for _ in range(3))], HOSTS, 0.0)
    assert [hosts_of(entry) for entry in gangs] == [["a", "b"]] * 3


def test_a_younger_gang_takes_no_host_that_an_older_waits_for() -> None:
    busy, large, small = schedule([gang(1, gpus=4), gang(3), gang(1)], HOSTS, 0.0)
    assert [entry.state for entry in (busy, large, small)] == [GRANTED, WAITING, WAITING]
    assert sorted(large.held) == ["a", "b", "c"]


def test_a_younger_gang_passes_an_older_over_hosts_that_this_would_not_take() -> None:
    hosts = [*HOSTS, host("d", gpus=0)]
    _, _, small = schedule([gang(1, gpus=4), gang(3), gang(1, gpus=0)], hosts, 0.0)
    assert small.allocations == (Allocation(host="d"),)


def test_slots_are_counted_where_they_are_given() -> None:
    hosts = [host("a", slots=4, gpus=0)]
    first, second = schedule([gang(1, gpus=0, slots=3), gang(1, gpus=0, slots=2)], hosts, 0.0)
    assert (first.state, second.state) == (GRANTED, WAITING)
    assert possible_hosts(gang(1, gpus=0, slots=5), hosts) == []


def test_a_spare_host_is_taken_only_in_place_of_one_that_failed() -> None:
    hosts = [host("a"), host("b"), host("s", spare=True)]
    [entry] = schedule([gang(3)], hosts, 0.0)
    assert entry.state == WAITING
    [entry] = schedule([gang(2, excluded={"b": "it is down"})], hosts, 0.0)
    assert hosts_of(entry) == ["a", "s"]


def test_a_gang_that_nobody_asks_for_is_passed_over_and_keeps_its_place_in_the_order() -> None:
    hosts = [host(n, gpus=2) for n in "abc"]
    absent, present = schedule([gang(3), gang(3, seen=1000.0)], hosts, 1000.0)
    assert (absent.state, present.state) == (WAITING, GRANTED)
    present, absent = replace(present, state=WAITING, allocations=()), replace(absent, seen=1001.0)
    absent, _ = schedule([absent, present], hosts, 1001.0)
    assert absent.state == GRANTED


def test_what_was_granted_to_one_who_vanished_goes_to_the_next() -> None:
    vanished, present = schedule([gang(3, gpus=4), gang(3, gpus=4)], HOSTS, 0.0)
    vanished, present = schedule([vanished, replace(present, seen=500.0)], HOSTS, 500.0)
    assert (vanished.state, present.state) == (WAITING, GRANTED)


def test_nothing_starves_whatever_comes_after_it() -> None:
    dice = random.Random(1)
    for _ in range(200):
        hosts = [host(name, gpus=dice.choice((2, 4))) for name in "abcd"[: dice.randint(2, 4)]]
        held = [Allocation(host=host.name, gpus=("0",), folder="f") for host in hosts]
        queue = [gang(1, gpus=1, state=LAUNCHED, allocations=(allocation,)) for allocation in held]
        old = gang(len(hosts), gpus=2)
        if len(possible_hosts(old, hosts)) < old.nodes:
            continue
        queue.append(old)
        for _ in range(60):
            queue += [gang(dice.randint(1, len(hosts)), gpus=dice.randint(0, 2)) for _ in range(2)]
            queue = list(schedule(queue, hosts, 0.0))
            [old] = [entry for entry in queue if entry.number == old.number]
            if old.state == GRANTED:
                break
            queue.remove(dice.choice([entry for entry in queue if entry.state != WAITING]))
        assert old.state == GRANTED
