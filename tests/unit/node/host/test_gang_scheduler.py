"""Which waiting gang gets which hosts: all at once, in order, and none starves."""

from __future__ import annotations

import itertools
import random
from typing import Any

from muster.node.host.gang_scheduler import GRANTED, LAUNCHED, WAITING, could_ever, schedule

_numbers = itertools.count(1)


def host(name: str, gpus: int = 4, slots: int = 0, spare: bool = False) -> dict[str, Any]:
    return {"name": name, "slots": slots, "gpus": [str(n) for n in range(gpus)], "spare": spare}


def gang(nodes: int, gpus: int = 2, slots: int = 1, **fields: Any) -> dict[str, Any]:
    number = next(_numbers)
    asked = {"job": f"j{number}", "number": number, "nodes": nodes, "gpus": gpus, "slots": slots}
    return {**asked, "state": WAITING, "allocations": [], "held": [], "excluded": {}, "seen": 0.0, "until": 0.0, **fields}


HOSTS = [host("a"), host("b"), host("c")]


def test_a_gang_gets_all_its_hosts_or_none() -> None:
    first, second = gang(3, gpus=4), gang(2)
    schedule([first, second], HOSTS, 0.0)
    assert [place["host"] for place in first["allocations"]] == ["a", "b", "c"]
    assert (second["state"], second["allocations"]) == (WAITING, [])
    assert len(second["held"]) == 2


def test_no_device_is_given_twice_and_hosts_are_shared() -> None:
    gangs = [gang(2) for _ in range(3)]
    schedule(gangs, HOSTS, 0.0)
    given = [(place["host"], gpu) for entry in gangs for place in entry["allocations"] for gpu in place["gpus"]]
    assert all(entry["state"] == GRANTED for entry in gangs)
    assert len(given) == len(set(given)) == 12


def test_a_single_node_fills_up_a_host_that_is_in_use() -> None:
    first, second = gang(1), gang(1)
    schedule([first, second], HOSTS, 0.0)
    assert first["allocations"][0]["host"] == second["allocations"][0]["host"]


def test_where_nothing_is_counted_hosts_are_taken_in_the_inventory_s_order() -> None:
    gangs = [gang(2, gpus=0) for _ in range(3)]
    schedule([gang(1, gpus=2), *gangs], HOSTS, 0.0)
    assert [[place["host"] for place in entry["allocations"]] for entry in gangs] == [["a", "b"]] * 3


def test_a_younger_gang_takes_no_host_that_an_older_waits_for() -> None:
    busy, large, small = gang(1, gpus=4), gang(3), gang(1)
    schedule([busy, large, small], HOSTS, 0.0)
    assert [entry["state"] for entry in (busy, large, small)] == [GRANTED, WAITING, WAITING]
    assert sorted(large["held"]) == ["a", "b", "c"]


def test_a_younger_gang_passes_an_older_over_hosts_that_this_would_not_take() -> None:
    hosts = [*HOSTS, host("d", gpus=0)]
    busy, large, small = gang(1, gpus=4), gang(3), gang(1, gpus=0)
    schedule([busy, large, small], hosts, 0.0)
    assert small["allocations"] == [{"host": "d", "gpus": [], "folder": ""}]


def test_slots_are_counted_where_they_are_given() -> None:
    hosts = [host("a", slots=4, gpus=0)]
    first, second, third = gang(1, gpus=0, slots=3), gang(1, gpus=0, slots=2), gang(1, gpus=0, slots=5)
    schedule([first, second], hosts, 0.0)
    assert (first["state"], second["state"]) == (GRANTED, WAITING)
    assert could_ever(third, hosts) == []


def test_a_spare_host_is_taken_only_in_place_of_one_that_failed() -> None:
    hosts = [host("a"), host("b"), host("s", spare=True)]
    entry = gang(3)
    schedule([entry], hosts, 0.0)
    assert entry["state"] == WAITING
    entry = gang(2, excluded={"b": "it is down"})
    schedule([entry], hosts, 0.0)
    assert [place["host"] for place in entry["allocations"]] == ["a", "s"]


def test_a_gang_that_nobody_asks_for_is_passed_over_and_keeps_its_place_in_the_order() -> None:
    absent, present = gang(3), gang(3, seen=1000.0)
    schedule([absent, present], [host(n, gpus=2) for n in "abc"], 1000.0)
    assert (absent["state"], present["state"]) == (WAITING, GRANTED)
    present.update(state=WAITING, allocations=[])
    absent["seen"] = 1001.0
    schedule([absent, present], [host(n, gpus=2) for n in "abc"], 1001.0)
    assert absent["state"] == GRANTED


def test_what_was_granted_to_one_who_vanished_goes_to_the_next() -> None:
    vanished, present = gang(3, gpus=4), gang(3, gpus=4)
    schedule([vanished, present], HOSTS, 0.0)
    present["seen"] = 500.0
    schedule([vanished, present], HOSTS, 500.0)
    assert (vanished["state"], present["state"]) == (WAITING, GRANTED)


def test_nothing_starves_whatever_comes_after_it() -> None:
    dice = random.Random(1)
    for _ in range(200):
        hosts = [host(name, gpus=dice.choice((2, 4))) for name in "abcd"[: dice.randint(2, 4)]]
        running = [
            gang(1, gpus=1, state=LAUNCHED, allocations=[{"host": h["name"], "gpus": ["0"], "folder": "f"}]) for h in hosts
        ]
        old = gang(len(hosts), gpus=2)
        if len(could_ever(old, hosts)) < old["nodes"]:
            continue
        queue = [*running, old]
        for _ in range(60):
            queue += [gang(dice.randint(1, len(hosts)), gpus=dice.randint(0, 2)) for _ in range(2)]
            schedule(queue, hosts, 0.0)
            if old["state"] == GRANTED:
                break
            ended = [entry for entry in queue if entry["state"] != WAITING]
            queue.remove(dice.choice(ended))
        assert old["state"] == GRANTED
