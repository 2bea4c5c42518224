"""Elastic PyTorch under torchrun on a real Slurm: a node is lost with its daemon, and the others train on."""

from __future__ import annotations

import pytest

from elastic_lab import TRAIN, elastic_plan
from frameworks import TORCH, Frameworks
from lab import lines, notes
from muster.core.plan import EnvironmentRef
from muster.core.state import RunState
from slurm_lab import SlurmLab

pytestmark = pytest.mark.timeout(1200)  # torch is installed


@pytest.fixture
def environment(frameworks: Frameworks) -> EnvironmentRef:
    """An environment with torch, which all nodes find by its path."""
    return frameworks.installed(*TORCH)


@pytest.fixture
def roomy(slurm_lab: SlurmLab) -> SlurmLab:
    """A lab whose nodes have memory for torch."""
    slurm_lab.fields["memory"] = "1900M"
    return slurm_lab


def test_a_node_lost_with_its_daemon_is_survived(roomy: SlurmLab, environment: EnvironmentRef) -> None:
    plan = elastic_plan(TRAIN, roomy.store.uri, (2, 3), arguments=("60", "2"), environment=environment)
    handle = roomy.submit(plan)
    roomy.wait_for_line(handle, '"epoch 5"', node=2, limit=240.0)
    try:
        roomy.cluster.kill_node("node3")
        outcome, events = roomy.wait(handle, 300.0)
    finally:
        roomy.cluster.revive_node("node3")
    assert outcome.state is RunState.COMPLETED, (outcome.verdict, notes(events), lines(events))
    again = [line for line in lines(events, 0) if line.startswith("begin ")][-1]
    assert again.endswith("of 2")
    assert int(again.split()[1]) >= 5
    assert [entry["node"] for entry in roomy.record(handle)["lost"]] == [2]
    assert roomy.living(handle) == []
