"""A launch on an engine that is so slow that another submit takes it for dead: the job is still launched once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from docker_lab import DockerLab
from lab import lines, new_job_id, plan_of
from muster.core.state import RunState
from muster.targets.docker import termination
from muster.targets.docker.launch import Launch


def test_a_launch_that_was_taken_for_dead_attaches_to_the_one_that_took_its_place(
    docker_lab: DockerLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(termination, "LAUNCH_TIME", 1.0)
    plan = plan_of("print('launched')", docker_lab.store.uri)
    job_id = new_job_id()
    created, go_on = threading.Event(), threading.Event()
    make_ready = Launch._make_ready
    first: list[Launch] = []

    def slowly(launch: Launch, node: int, *rest: Any) -> None:
        if not first:
            first.append(launch)
        if launch is first[0] and node == 0:
            created.set()
            assert go_on.wait(240.0)
        make_ready(launch, node, *rest)

    monkeypatch.setattr(Launch, "_make_ready", slowly)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(docker_lab.submit, plan, job_id)
        assert created.wait(240.0)
        quick = docker_lab.submit(plan, job_id)
        go_on.set()
        handle = slow.result()
    assert quick.found == "launched"
    assert handle.found in ("attached", "completed")
    outcome, events = docker_lab.wait(quick)
    assert outcome.state is RunState.COMPLETED
    assert sorted(lines(events)) == ["launched"] * len(plan.nodes)
    docker_lab.target.release(quick)
    assert docker_lab.left(job_id) == []
