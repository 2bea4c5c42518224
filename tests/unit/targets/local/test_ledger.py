"""A lost node of this machine is started again only for a run that goes on, and only if nobody else has done so."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from muster.core.handle import SubmitResult
from muster.node import processes
from muster.targets.claim import Claim
from muster.targets.local.ledger import LocalLedger

CLAIM = Claim(
    job_id="job", generation=1, attempt=1, plan_digest="d", store="s3://none", nodes=2, submitted=1.0, first_started=1.0
)


@pytest.fixture
def ledger(tmp_path: Path) -> LocalLedger:
    """Return the ledger of a job whose two nodes are alive: this process is their guardian."""
    ledger = LocalLedger(root=tmp_path, target="local")
    for node in ledger.nodes(CLAIM):
        node.root.mkdir(parents=True)
        node.guardian.write_text(json.dumps({"pid": os.getpid(), "start": processes.start_time(os.getpid())}))
    CLAIM.write(tmp_path / "jobs" / "job" / "claim.json")
    return ledger


def test_a_node_that_another_watcher_has_started_again_is_alive(ledger: LocalLedger) -> None:
    handle, guardian = CLAIM.handle("local", SubmitResult.ATTACHED), ledger.nodes(CLAIM)[1].guardian
    before = guardian.read_text()
    assert ledger.restart_node(handle, 1), "whoever started it, its log goes on"
    assert guardian.read_text() == before, "one that is alive is left as it is"


def test_no_node_is_started_for_a_run_that_does_not_go_on(ledger: LocalLedger) -> None:
    handle, leader = CLAIM.handle("local", SubmitResult.ATTACHED), ledger.nodes(CLAIM)[0]
    assert not ledger.restart_node(replace(handle, attempt=2), 1)
    leader.cancel.write_text("{}")
    assert not ledger.restart_node(handle, 1)
    leader.cancel.unlink()
    leader.guardian.write_text(json.dumps({"pid": os.getpid(), "start": 1}))
    assert not ledger.restart_node(handle, 1)
