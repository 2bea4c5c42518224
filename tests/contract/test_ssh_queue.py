"""Hosts and GPUs for whole gangs, in order, from one queue: what is granted is held by its agents, and nothing starves."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading

import pytest

from hosts_lab import HostsLab
from lab import lines, plan_of
from muster.core.event import Cursor, Event
from muster.core.handle import JobHandle
from muster.core.plan import JobPlan, Needs
from muster.core.state import RunState
from muster.node import processes

WAITS = "import time; print('here', flush=True); time.sleep(600)"
TELLS = (
    "import os, socket, time\n"
    "print('from', time.time(), socket.gethostname(), os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    "time.sleep(0.4)\n"
    "print('to', time.time(), flush=True)"
)


@pytest.fixture
def lab(hosts_lab: HostsLab) -> HostsLab:
    """Three hosts with four GPUs each."""
    return hosts_lab


def gang(lab: HostsLab, code: str, nodes: int, gpus: int = 2) -> JobPlan:
    return plan_of(code, lab.store.uri, nodes=nodes, needs=Needs(gpus=gpus))


async def events_of(lab: HostsLab, handles: list[JobHandle]) -> dict[str, list[Event]]:
    """Watch many jobs, each by a session of its own as a triggerer would; gives the events of each."""
    found = await asyncio.gather(*(lab.events(handle) for handle in handles))
    return {handle.job_id: events for handle, events in zip(handles, found, strict=True)}


@pytest.mark.timeout(1500)
def test_twenty_gangs_compete_for_three_hosts_without_deadlock_and_in_order(lab: HostsLab) -> None:
    dice = random.Random(4)
    sizes = [dice.choice((2, 3)) for _ in range(20)]
    before = lab.submit(gang(lab, WAITS, 3, gpus=4), job_id="before")
    handles = [lab.submit(gang(lab, TELLS, nodes), job_id=f"gang-{n:02}") for n, nodes in enumerate(sizes)]
    assert lab.queue() == ["before", *(handle.job_id for handle in handles)]
    assert lab.target.cancel(before, 1, "all are there")
    found = asyncio.run(asyncio.wait_for(events_of(lab, handles), 1000))
    spans = []
    for handle, nodes in zip(handles, sizes, strict=True):
        events = found[handle.job_id]
        assert events[-1].data["state"] == RunState.COMPLETED.value, events[-1].data
        begun = [line.split() for line in lines(events) if line.startswith("from")]
        ended = max(float(line.split()[1]) for line in lines(events) if line.startswith("to"))
        assert len(begun) == nodes
        spans.append((float(begun[0][1]), ended, {(host, gpu) for _, _, host, gpus in begun for gpu in gpus.split(",")}))
        assert len(spans[-1][2]) == 2 * nodes
    for (start, end, mine), (other_start, other_end, others) in itertools.combinations(spans, 2):
        assert not mine & others or end <= other_start or other_end <= start, "two jobs have seen one GPU"
    records = [json.loads((lab.folder(lab.rack.hosts[0]) / "jobs" / h.job_id / "g1-a1.json").read_text()) for h in handles[:-1]]
    granted = [record["entry"]["granted"] for record in records]
    assert granted == sorted(granted), "a younger gang was served before an older one"
    assert not any(lab.living(handle) for handle in handles)


def test_a_queued_job_says_what_it_waits_for_and_is_launched_by_whoever_watches(lab: HostsLab) -> None:
    first = lab.submit(gang(lab, WAITS, 3, gpus=4), job_id="first")
    lab.wait_for(first, node=2)
    second = lab.submit(gang(lab, "print('my turn')", 2), job_id="second")
    assert lab.submit(gang(lab, "print('my turn')", 2), job_id="second").found == "attached"
    assert lab.living(second) == []
    told: list[str] = []

    async def watch() -> str:
        async for _, _, event in lab.target.session().watch({second: Cursor()}):
            if event.kind == "note":
                told.append(event.data["text"])
                if len(told) == 1:
                    await asyncio.to_thread(lab.target.cancel, first, 1, "make room")
        return str(event.data["state"])

    assert asyncio.run(asyncio.wait_for(watch(), 240)) == "Completed"
    assert told[0].startswith("waits for 2 hosts with 2 free GPUs each (rack-")
    assert "taken by first" in told[0]


def test_a_queued_job_that_is_cancelled_leaves_the_queue_at_once(lab: HostsLab) -> None:
    first = lab.submit(gang(lab, WAITS, 3, gpus=4), job_id="first")
    lab.wait_for(first)
    second = lab.submit(gang(lab, WAITS, 2), job_id="second")
    assert lab.queue() == ["first", "second"]
    assert lab.target.cancel(second, 1, "not wanted any more")
    assert lab.queue() == ["first"]
    outcome, _ = lab.wait(second)
    assert outcome.state is RunState.CANCELED
    assert "not wanted any more" in outcome.verdict.summary()
    assert lab.target.cancel(first, 1)
    again = lab.submit(gang(lab, "print('now')", 2), job_id="second")
    assert (again.attempt, lab.wait(again)[0].state) == (2, RunState.COMPLETED)


def test_a_younger_gang_does_not_overtake_an_older_over_hosts_that_this_waits_for(lab: HostsLab) -> None:
    first = lab.submit(gang(lab, WAITS, 1, gpus=4), job_id="first")
    large = lab.submit(gang(lab, "print('large')", 3), job_id="large")
    small = lab.submit(gang(lab, "print('small')", 1), job_id="small")
    lab.wait_for(first)
    threading.Timer(4.0, lambda: lab.target.cancel(first, 1)).start()
    found = asyncio.run(asyncio.wait_for(events_of(lab, [large, small]), 240))
    times = {name: next(e.time for e in events if e.kind == "line") for name, events in found.items()}
    first_end = next(e.time for e in lab.wait(first)[1] if e.kind == "end")
    assert times["large"] > first_end
    assert times["small"] > first_end


def test_hosts_of_killed_agents_are_given_to_the_next(lab: HostsLab) -> None:
    first = lab.submit(gang(lab, WAITS, 3, gpus=4), job_id="first")
    lab.wait_for(first, node=2)
    second = lab.submit(gang(lab, "print('next')", 3, gpus=4), job_id="second")
    threading.Timer(2.0, lambda: processes.send_signal(lab.living(first), 9)).start()
    assert lab.wait(second)[0].state is RunState.COMPLETED
    assert lab.living(first) == []


def test_slots_are_counted_where_the_inventory_gives_them(lab: HostsLab) -> None:
    lab.fields = {"slots": 2}
    first = lab.submit(plan_of(WAITS, lab.store.uri, nodes=3, ranks=2), job_id="first")
    lab.wait_for(first)
    second = lab.submit(plan_of("print('one')", lab.store.uri, nodes=1), job_id="second")
    assert lab.queue() == ["first", "second"]
    assert lab.living(second) == []
    assert lab.target.cancel(first, 1)
    assert lab.wait(second)[0].state is RunState.COMPLETED
