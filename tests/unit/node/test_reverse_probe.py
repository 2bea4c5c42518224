"""A follower's end of the reverse probe, asked by its leader: why a node does not join."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from pathlib import Path

import pytest

from lab import assignment_of, plan_of
from muster.node.assignment import Assignment
from muster.node.reverse_probe import ProbeResult, ReverseProbe, probe_back
from muster.packaging.certificate import make_certificate

_numbers = itertools.count()
WHY = "10.0.0.1: no answer on ports 21010"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reverse_probe") / "mesh.pem"
    path.write_bytes(make_certificate())
    return path


def assignment(node: int, *addresses: str) -> Assignment:
    plan = plan_of("pass", "s3://b/p", nodes=len(addresses))
    return assignment_of(plan, job_id=f"reverse_probe-{next(_numbers)}", node=node, addresses=addresses)


async def test_a_bell_tells_why_and_hears_that_it_is_over(certificate: Path) -> None:
    mine = assignment(1, "127.8.9.1", "127.8.9.2")
    opened = ReverseProbe(mine, certificate)
    opened.set_problem(WHY)
    await opened.open_after(0)
    assert await probe_back(mine, 1, certificate) == ProbeResult(problem=WHY)
    assert not opened.over.done()
    assert await probe_back(mine, 1, certificate, over=True) == ProbeResult(problem=WHY)
    await asyncio.wait_for(opened.over, 60)
    opened.close()


async def test_a_bell_answers_for_its_own_node_only(certificate: Path) -> None:
    mine = assignment(1, "127.8.9.1", "127.8.9.3", "127.8.9.3")
    opened = ReverseProbe(mine, certificate)
    opened.set_problem(WHY)
    await opened.open_after(0)
    assert await probe_back(mine, 2, certificate, over=True) == ProbeResult()
    assert not opened.over.done()
    opened.close()


async def test_where_nobody_opens_is_somebody_to_wait_for(certificate: Path) -> None:
    assert await probe_back(assignment(0, "127.8.9.1", "127.8.9.4"), 1, certificate) == ProbeResult()


@pytest.mark.parametrize("addresses", [("127.8.9.5", "127.8.9.5"), ("127.8.9.5", ""), ("", "127.8.9.5")])
async def test_none_is_opened_where_the_leader_may_listen(certificate: Path, addresses: tuple[str, ...]) -> None:
    mine = assignment(1, *addresses)
    opened = ReverseProbe(mine, certificate)
    opened.set_problem(WHY)
    await opened.open_after(0)
    there = dataclasses.replace(mine, addresses=("127.8.9.1", "127.8.9.5"))
    assert await probe_back(there, 1, certificate) == ProbeResult()
    opened.close()
