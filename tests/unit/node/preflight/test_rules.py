"""Who does not fit: each node alone, and beside the others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lab import plan_of
from muster.core.codec import from_data, to_data
from muster.core.plan import EnvironmentRef, JobPlan, Needs
from muster.core.verdict import Cause, Verdict, Violation, unfit
from muster.node.preflight import rules
from muster.node.preflight.facts import Facts
from muster.node.preflight.reachability import Blocked

GIB = 1 << 30


def plan(nodes: int = 3, **changes: Any) -> JobPlan:
    return dataclasses.replace(plan_of("pass", "s3://b/p", nodes=nodes), **changes)


def seen(node: int, **changes: Any) -> Facts:
    usual: dict[str, Any] = {"cpus": 8, "memory": 64 * GIB, "disk": 100 * GIB, "ports": {"master": 6105}, "folder": "/muster"}
    return Facts(**{"node": node, "host": f"gpu-{'abcdef'[node]}", "clock": 0.0, **usual, **changes})


def nodes(**by_node: dict[str, Any]) -> list[Facts]:
    """Return three nodes, of which ``n1`` and so on have something else."""
    return [seen(node, **by_node.get(f"n{node}", {})) for node in range(3)]


def said(*violations: Any) -> list[str]:
    return [str(violation) for violation in violations]


def test_nodes_that_fit() -> None:
    assert rules.violations(plan(), nodes(), {0: 0.0, 1: 0.1, 2: -0.2}, -3.0) == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem": "nvidia-smi failed"}, "nvidia-smi failed"),
        ({"gpus": ("0, H200, 1 MiB",)}, "2 GPUs were asked for, it has 1 for this job"),
        ({"cpus": 1}, "4 CPUs were asked for, it has 1"),
        ({"memory": GIB}, f"{2 * GIB} bytes of memory were asked for, {GIB} are free"),
        ({"disk": 10}, "its disk is full: 10 bytes are free in /muster"),
        ({"missing": ("mpirun",)}, "it has no mpirun on its PATH; install Open MPI"),
        ({"snapshot": "sha256:other"}, "its code is not what was submitted: sha256:other instead of sha256:code"),
    ],
)
def test_a_node_that_does_not_fit_is_named_with_host_and_reason(changes: dict[str, Any], reason: str) -> None:
    two = ("0, H200, 1 MiB", "1, H200, 1 MiB")
    usual = {"gpus": two, "snapshot": "sha256:code"}
    wanted = plan(needs=Needs(gpus=2, cpus=4, memory=2 * GIB), snapshot="sha256:code")
    facts = [seen(node, **usual) for node in range(3)]
    facts[1] = dataclasses.replace(facts[1], **changes)
    [violation] = rules.violations(wanted, facts)
    assert (violation.node, violation.host) == (1, "gpu-b")
    assert str(violation).startswith(f"node 1 (gpu-b) does not fit: {reason}")
    if "problem" not in changes and "snapshot" not in changes:
        assert "; " in violation.reason


def test_a_wished_port_that_was_not_found() -> None:
    [violation] = rules.violations(plan(), nodes(n0={"ports": {}}))
    assert "no free port for master" in violation.reason


def test_the_verdict_names_the_first_and_has_all() -> None:
    verdict = unfit(rules.violations(plan(), nodes(n1={"disk": 1}, n2={"problem": "it burns"})))
    assert (verdict.cause, verdict.node, verdict.host) == (Cause.PREFLIGHT, 1, "gpu-b")
    assert [violation.node for violation in verdict.violations] == [1, 2]
    assert verdict.summary().endswith("; node 2 (gpu-c) does not fit: it burns; no rank was started")
    assert from_data(Verdict, to_data(verdict)) == verdict


def test_a_verdict_on_many_stays_a_line() -> None:
    verdict = unfit([Violation(node=node, host="h", reason="it burns") for node in range(6)])
    assert verdict.summary().endswith("; node 2 (h) does not fit: it burns; nor do nodes 3, 4, 5; no rank was started")
    assert len(verdict.violations) == 6


def test_a_verdict_written_before_there_were_misfits_is_read() -> None:
    assert from_data(Verdict, {"cause": "preflight", "detail": "x"}).violations == ()


# -- clocks


@pytest.mark.parametrize(
    ("clocks", "submitter", "named", "way"),
    [
        ({0: 0.0, 1: 3600.0, 2: 0.5}, -5.0, 1, "3600 s ahead of the other nodes'"),
        ({0: 0.0, 1: -3600.0, 2: -3600.2}, -3605.0, 0, "3600 s ahead of the other nodes'"),
        ({0: 0.0, 1: -90.0}, -4.0, 1, "90 s behind the other nodes'"),
        ({0: 0.0, 1: 3600.0}, 3595.0, 0, "behind the other nodes'"),
        ({0: 0.0}, 3595.0, 0, "3595 s behind that of the machine that submitted the job"),
    ],
)
def test_the_clock_that_is_off_is_named_also_if_it_is_the_leaders(
    clocks: dict[int, float], submitter: float, named: int, way: str
) -> None:
    facts = [seen(node) for node in clocks]
    [violation] = rules.violations(plan(len(clocks)), facts, clocks, submitter)
    assert violation.node == named
    assert way in violation.reason
    assert "; set its clock" in violation.reason


def test_a_job_that_waited_for_hours_is_no_clock_that_is_off() -> None:
    assert rules.violations(plan(1), [seen(0)], {0: 0.0}, -7200.0) == ()
    assert rules.violations(plan(2), [seen(0), seen(1)], {0: 0.0, 1: 0.1}, -7200.0) == ()


def test_clocks_a_little_apart_are_told() -> None:
    [note] = rules.notes({0: 0.0, 1: 7.0, 2: 0.0}, -1.0, nodes())
    assert note.startswith("clock of node 1 (gpu-b) is +7 s off the other nodes'; set its clock")
    assert rules.violations(plan(), nodes(), {0: 0.0, 1: 7.0, 2: 0.0}, -1.0) == ()


# -- drivers, environments


def test_a_driver_that_is_not_the_others_is_refused() -> None:
    one, other = {"driver": "570.12"}, {"driver": "550.90"}
    [violation] = rules.violations(plan(), nodes(n0=one, n1=other, n2=one))
    assert said(violation)[0].startswith("node 1 (gpu-b) does not fit: its GPU driver is 550.90, that of the others 570.12; ")
    [violation] = rules.violations(plan(), nodes(n0=other, n1=one, n2=one))
    assert violation.node == 0


def test_an_environment_that_is_not_the_others_is_found_where_the_job_names_one() -> None:
    facts = nodes(n0={"packages": "sha256:1"}, n1={"packages": "sha256:1"}, n2={"packages": "sha256:2"})
    for environment in (EnvironmentRef(digest="sha256:e"), EnvironmentRef(interpreter="/opt/python")):
        assert rules.other_packages(plan(environment=environment), facts) == [(2, 0)]
    assert rules.other_packages(plan(), facts) == []


# -- pairs


def blocked(source: int, node: int, why: str = "no answer") -> Blocked:
    return Blocked(source=source, node=node, address=f"10.0.0.{node}", port=6105, why=why)


def test_of_one_pair_the_node_that_was_not_reached_is_named() -> None:
    [violation] = rules.culprits([blocked(1, 0)], nodes())
    reason = "node 1 (gpu-b) can't reach port 6105 of 10.0.0.0: no answer; open its firewall for the nodes of a job"
    assert str(violation).startswith(f"node 0 (gpu-a) does not fit: {reason}")


def test_the_node_of_most_pairs_is_named_once() -> None:
    pairs = [blocked(0, 1), blocked(2, 1), blocked(1, 2), blocked(1, 0)]
    [violation] = rules.culprits(pairs, nodes())
    assert violation.node == 1
    assert violation.reason.startswith("node 0 (gpu-a) can't reach port 6105 of 10.0.0.1: no answer (and so with 1 more nodes)")


def test_a_node_that_reaches_nobody_is_named() -> None:
    [violation] = rules.culprits([blocked(1, 0), blocked(1, 2)], nodes())
    assert violation.node == 1
    assert violation.reason.startswith("it can't reach port 6105 of 10.0.0.0, node 0 (gpu-a): no answer")


def test_two_separate_pairs_name_two_nodes() -> None:
    facts = [seen(node) for node in range(4)]
    assert [violation.node for violation in rules.culprits([blocked(0, 1), blocked(2, 3)], facts)] == [1, 3]
