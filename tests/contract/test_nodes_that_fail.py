"""A node that is there but can't do what it is asked ends the run by its name, at once, and leaves nothing behind."""

from __future__ import annotations

import dataclasses

import pytest

from lab import Lab, plan_of
from muster.core.placeholder import Here
from muster.core.plan import JobPlan
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.ranks.supervisor import NOT_STARTED
from muster.packaging import agent_pack

NO_SYNC_ON_NODE_1 = """
def start(self, start=SyncClient.start):
    if self._folder.name == "node-1":
        raise OSError(11, "Resource temporarily unavailable")
    start(self)

SyncClient.start = start
"""


def unable(plan: JobPlan, node: int) -> JobPlan:
    """Return a plan that one node can't start the second rank of: it holds a token that no node knows."""
    first, second = plan.nodes[node].ranks
    broken = dataclasses.replace(second, argv=((Here(here="nothing"),),))
    nodes = [dataclasses.replace(n, ranks=(first, broken)) if n.node == node else n for n in plan.nodes]
    return dataclasses.replace(plan, nodes=tuple(nodes))


@pytest.mark.parametrize("node", [0, 1])
def test_a_node_that_can_not_start_its_ranks_ends_the_run_by_its_name(lab: Lab, node: int) -> None:
    code = "import time\nprint('ready', flush=True)\ntime.sleep(600)"
    handle = lab.submit(unable(plan_of(code, lab.store.uri, ranks=2), node))
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.node) == (Cause.NODE, node)
    assert "could not start its ranks: KeyError: 'nothing'" in outcome.verdict.summary()
    assert lab.living(handle) == []


def test_a_shim_that_dies_before_it_comes_to_the_agent_ends_the_run_by_its_rank(lab: Lab) -> None:
    plan = plan_of("print('never')", lab.store.uri)
    shim = agent_pack.unpack_agent(lab.root).with_name("ranks") / "shim.py"
    shim.write_text("raise SystemExit(3)\n")
    outcome, _ = lab.wait(lab.submit(plan))
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert (outcome.verdict.cause, outcome.verdict.exit_code) == (Cause.RANK, 3)
    assert NOT_STARTED in outcome.verdict.summary()


def test_a_node_that_can_not_store_its_files_is_named_and_they_can_be_committed(lab: Lab) -> None:
    plan = plan_of("print('done')", lab.store.uri)
    syncer = agent_pack.unpack_agent(lab.root).with_name("sync_client.py")
    syncer.write_text(syncer.read_text(encoding="utf-8") + NO_SYNC_ON_NODE_1, encoding="utf-8")
    handle = lab.submit(plan)
    outcome, _ = lab.wait(handle)
    assert outcome.state is RunState.FAILED
    assert outcome.verdict is not None
    assert outcome.verdict.cause is Cause.STORE
    assert "could not store its files: Resource temporarily unavailable; they still lie in" in outcome.verdict.summary()
    assert f"muster commit {handle.job_id}" in outcome.verdict.summary()
