"""The end of a run whose manifest is being written while it is told to end: what is written counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import assignment_of, plan_of
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.agent import finalizer as finalize
from muster.node.agent.commands import FilesStored, Leave, StoreFiles
from muster.node.agent.finalizer import Finalizer
from muster.node.agent.gang import FixedMembership
from muster.node.agent.run_record import RunRecord
from muster.node.rpc import Request
from muster.node.sync_commands import CommitManifest

CANCEL = Verdict(cause=Cause.CANCEL, detail="cancelled")


class Store:
    """Stands for the sync process: takes files at once, a manifest once it is let to; ``asked`` is what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.lets = asyncio.Event()
        self.committing = asyncio.Event()

    async def call(self, request: Request[Any]) -> Any:
        self.asked.append(request.command)
        if not isinstance(request, CommitManifest):
            return None
        self.committing.set()
        await self.lets.wait()
        return "s3://b/manifest.json"

    async def notify(self, request: Request[Any]) -> None:
        self.asked.append(request.command)


class Gang:
    """Stands for a run of one node, which is never lost."""

    metrics: dict[str, float] = {}  # noqa: RUF012

    def __init__(self, store: Store, membership: FixedMembership) -> None:
        self._store = store
        self.members: dict[int, Any] = {}
        self.membership = membership
        membership.gang = self  # type: ignore[assignment]

    async def ask_all(self, request: StoreFiles) -> dict[int, FilesStored]:
        self._store.asked.append("files")
        return {0: FilesStored()}

    def present(self) -> list[int]:
        return [0]

    def push(self, request: Leave) -> None:
        """Nobody is there to hear it."""


async def nothing(timeout: float) -> None:
    """Have no last words."""


def ended(tmp_path: Path, store: Store) -> tuple[Finalizer, RunRecord, list[dict[str, Any]]]:
    assignment = assignment_of(plan_of("pass", "s3://b", nodes=1))
    events: list[dict[str, Any]] = []
    log = SimpleNamespace(add=lambda kind, **data: events.append({"kind": kind, **data}))
    work: Any = SimpleNamespace(syncer=store, log=log, finish_log=nothing)
    record, gang = RunRecord(assignment, tmp_path), Gang(store, FixedMembership(assignment.plan))
    return Finalizer(assignment, work, gang, record), record, events  # type: ignore[arg-type]


async def cancelled_in_commit(finalizer: Finalizer, store: Store) -> asyncio.Task[None]:
    """Have the run end, and cancel it once its manifest is being written."""
    halt: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    running = asyncio.ensure_future(finalizer.run(None, halt))
    await asyncio.wait_for(store.committing.wait(), 60)
    halt.set_result(CANCEL)
    return running


async def test_a_cancel_waits_for_the_manifest_that_is_being_written(tmp_path: Path) -> None:
    store = Store()
    finalizer, record, events = ended(tmp_path, store)
    running = await cancelled_in_commit(finalizer, store)
    await asyncio.sleep(0)  # the cancel is seen first
    store.lets.set()
    await asyncio.wait_for(running, 60)
    assert (events[-1]["state"], events[-1]["manifest"]) == (RunState.COMPLETED.value, "s3://b/manifest.json")
    assert record.data["state"] == RunState.COMPLETED.value
    assert store.asked.count("files") == 1


async def test_a_cancel_does_not_wait_for_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finalize, "COMMIT_TIMEOUT", 0.01)
    store = Store()
    finalizer, record, events = ended(tmp_path, store)
    running = await cancelled_in_commit(finalizer, store)
    await asyncio.wait_for(running, 60)
    assert (events[-1]["state"], events[-1]["manifest"]) == (RunState.CANCELED.value, None)
    assert record.data["state"] == RunState.CANCELED.value
