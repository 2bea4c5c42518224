"""The run's state document (run.json), kept by the leader and written to the store on every change."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from muster.core.codec import to_data
from muster.core.state import RunState
from muster.core.store_keys import RunKeys
from muster.core.verdict import Verdict
from muster.node.assignment import Assignment, AttemptRecord
from muster.node.ranks.diagnosis import RankExit

RECORD_VERSION = 1
_PHASES = {RunState.STARTING: "starting", RunState.RUNNING: "running", RunState.FINALIZING: "finalizing"}


class RunRecord:
    """Record of a run, as ``muster show`` prints it. Times in seconds since the epoch, phases in seconds."""

    def __init__(self, assignment: Assignment, attempt_folder: Path) -> None:
        self._assignment = assignment
        self._phase: tuple[str, float] = ("starting", assignment.submitted)
        keys = RunKeys(job_id=assignment.job_id, generation=assignment.generation)
        self.uri = f"{assignment.store.rstrip('/')}/{keys.root}"
        self.data = self._first_data(assignment)
        self.data["host_folders"] = [
            {"node": node.node, "path": str(attempt_folder / f"node-{node.node}")} for node in assignment.plan.nodes
        ]

    def _first_data(self, a: Assignment) -> dict[str, Any]:
        plan = a.plan
        environment = {"interpreter": a.interpreter, **to_data(plan.environment)}
        return {
            "version": RECORD_VERSION,
            "run": a.job_id,
            "name": plan.name,
            "framework": plan.framework,
            "state": RunState.STARTING.value,
            "generation": a.generation,
            "attempt": a.attempt,
            "attempts": to_data([*a.history, AttemptRecord(attempt=a.attempt, started=a.submitted)]),
            "nodes": [],
            "networks": [],
            "ranks": [
                {"rank": r.rank, "node": n.node, "local_rank": r.local_rank, "role": r.role}
                for n in plan.nodes
                for r in n.ranks
            ],
            "times": {"preparing": round(max(0.0, a.submitted - (a.requested or a.submitted)), 3)},
            "created": a.requested or a.submitted,
            "updated": time.time(),
            "ended": None,
            "environment": {**environment, "interpreter": a.interpreter or plan.environment.interpreter},
            "snapshot": plan.snapshot,
            "source": dict(plan.source),
            "outputs": [],
            "verdict": None,
            "manifest": None,
            "digest": None,
            "uri": self.uri,
            "tags": dict(plan.tags),
            "target": a.target,
            "plan_digest": a.plan_digest,
            "deadline": a.deadline,
            "resumed_from": a.resumes[0],
            "metrics": {},
        }

    def enter(self, state: RunState) -> None:
        """Enter a state; close the phase before it with its duration."""
        now = time.time()
        name, since = self._phase
        times = self.data["times"]
        times[name] = round(times.get(name, 0.0) + now - since, 3)
        self._phase = (_PHASES.get(state, "after"), now)
        self.data.update(state=state.value, updated=now)
        if state.final:
            self.data["ended"] = now
            self.data["attempts"][-1].update(ended=now, state=state.value)

    def rank_ended(self, end: RankExit) -> None:
        """Record how a rank ended."""
        kept = ("node", "local_rank", "pid", "started", "ended", "exit_code", "signal")
        for entry in self.data["ranks"]:
            if entry["rank"] == end.rank:
                entry.update({key: getattr(end, key) for key in kept})

    def conclude(self, state: RunState, verdict: Verdict | None) -> None:
        """Enter a final state with its verdict."""
        data = to_data(verdict) if verdict else None
        if data and verdict:
            data["summary"] = verdict.summary()
        self.data["verdict"] = data
        self.data["attempts"][-1]["verdict"] = data
        self.enter(state)
