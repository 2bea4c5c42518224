"""The leader's last phase: assigns names to the files of all nodes, commits the manifest, writes the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from typing import Any

from muster.core import event
from muster.core.codec import to_data
from muster.core.manifest import Manifest
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.agent.commands import FinishLog, Leave, StoreFiles, StoreResult, StoreUnderNames
from muster.node.agent.executor import NodeExecutor
from muster.node.agent.gang import Gang, NodeFailed
from muster.node.agent.output_names import OutputNames, assign_names
from muster.node.agent.run_record import RunRecord
from muster.node.assignment import Assignment
from muster.node.mesh import PeerLost
from muster.node.rpc import CommandFailed
from muster.node.sync_commands import CommitManifest, PutRecord, StoreEventLog

FAILED_TIMEOUT = 30.0  # seconds that a run which failed anyway waits for the store
LAST_TIMEOUT = 10.0  # seconds for the last lines of the record
COMMIT_TIMEOUT = 20.0  # seconds that a cancel or a lost node waits for a manifest that is being written: once there, it counts


class OutputsNotStored(Exception):
    """The store did not take the outputs in time."""


class Finalizer:
    """Brings a run to its end, however its ranks ended."""

    def __init__(self, assignment: Assignment, executor: NodeExecutor, gang: Gang, record: RunRecord) -> None:
        self._a = assignment
        self._executor = executor
        self._gang = gang
        self._record = record
        self._is_committing = False

    async def run(self, verdict: Verdict | None, halt: asyncio.Future[Verdict]) -> None:
        """Keep the files, commit if the ranks completed, and write the end into the event log."""
        self._record.enter(RunState.FINALIZING)
        self._executor.log.add(event.STATE, state=RunState.FINALIZING.value)
        self._record.data["metrics"] = dict(self._gang.metrics)
        is_refused = self._is_refused(verdict)
        if not is_refused:
            verdict = await self._keep_files(verdict, halt)
        self._record.conclude(_state_of(verdict), verdict)
        timeout = 0.0 if is_refused else LAST_TIMEOUT
        await self._finish_logs(timeout)
        self._gang.membership.run_ended()
        await self._executor.syncer.notify(PutRecord(record=self._record.data))
        self._executor.log.add(event.END, **self._end_data())
        await self._executor.finish_log(timeout)
        self._gang.push(Leave())

    def _is_refused(self, verdict: Verdict | None) -> bool:
        """Return whether the store could not be used at the start; then the end does not wait for the store."""
        if verdict is None:
            return False
        return verdict.cause is Cause.REQUEST or (self._a.commit_only and verdict.cause is Cause.STORE)

    async def _keep_files(self, verdict: Verdict | None, halt: asyncio.Future[Verdict]) -> Verdict | None:
        """Store the files of every node; return the verdict, which a cancel, a lost node or an absent store still changes."""
        limit = self._a.plan.limits.store_patience
        timeout = limit if verdict is None else min(FAILED_TIMEOUT, limit)
        keeping = asyncio.ensure_future(self._store_and_commit(timeout, commit=verdict is None))
        endings: list[asyncio.Future[Any]] = [halt, *self._gang.membership.losses()] if verdict is None else []
        await asyncio.wait([keeping, *endings], return_when=asyncio.FIRST_COMPLETED)
        if not keeping.done() and self._is_committing:
            await asyncio.wait([keeping], timeout=COMMIT_TIMEOUT)
        if not keeping.done():
            keeping.cancel()
            return await self._keep_files(halt.result() if halt.done() else self._gang.membership.lost_verdict(), halt)
        try:
            keeping.result()
        except (OutputsNotStored, PeerLost, NodeFailed) as error:
            if isinstance(error, PeerLost) and verdict is None and self._gang.membership.survives():
                return await self._keep_files(None, halt)
            self._executor.log.add(event.NOTE, level="error", text=f"the outputs could not be stored: {error}")
            return verdict or self._gang.membership.lost_verdict() or self._not_stored(error, timeout)
        return verdict

    def _not_stored(self, error: Exception, timeout: float) -> Verdict:
        folders = ", ".join(f"{self._gang.host(f['node'])}:{f['path']}" for f in self._record.data["host_folders"])
        why = "" if isinstance(error, NodeFailed) else f"the store did not take the outputs within {timeout:g} s: "
        text = f"training completed, but {why}{error}"
        return Verdict(cause=Cause.STORE, detail=f"{text}; they still lie in {folders}", hint=commit_hint(self._a.job_id))

    async def _store_and_commit(self, timeout: float, commit: bool) -> None:
        answers = await self._gang.ask_all(StoreFiles(timeout=timeout))
        if commit and not self._gang.membership.suffice(answers):
            raise PeerLost("a node was lost before its files were stored")
        _raise_if_failed(answers.values())
        reported = (file for stored in answers.values() for file in stored.files)
        names = assign_names(reported, others_wrote=self._gang.membership.lost_any)
        for note in names.notes:
            self._executor.log.add(event.NOTE, level="warning", text=note)
        requests = {node: StoreUnderNames(files=tuple(files), timeout=timeout) for node, files in names.to_store.items()}
        _raise_if_failed(await asyncio.gather(*(self._gang.ask(node, request) for node, request in requests.items())))
        self._record.data["outputs"] = to_data(names.files)
        if commit:
            await self._commit(names, timeout, self._missing(answers))

    def _missing(self, present: Collection[int]) -> tuple[int, ...]:
        """Return the nodes whose files are not available, and note them."""
        missing = tuple(node.node for node in self._a.plan.nodes if node.node not in present)
        for node in missing:
            text = f"node {node} ({self._gang.host(node)}) was lost and is not back: what it kept is not in the manifest"
            self._executor.log.add(event.NOTE, level="warning", text=text)
        return missing

    async def _commit(self, names: OutputNames, timeout: float, missing: tuple[int, ...]) -> None:
        manifest = Manifest(
            run=self._a.job_id,
            generation=self._a.generation,
            attempt=self._a.attempt,
            uri=self._record.uri,
            files=names.files,
            snapshot=self._a.plan.snapshot,
            environment=self._a.plan.environment.digest,
            metrics=dict(self._gang.metrics),
            missing=missing,
        )
        self._is_committing = True
        try:
            uri = await self._executor.syncer.call(CommitManifest(manifest=manifest, timeout=timeout))
        except CommandFailed as error:
            raise OutputsNotStored(str(error)) from None
        self._record.data.update(manifest=uri, digest=manifest.digest())

    async def _finish_logs(self, timeout: float) -> None:
        """Finish the log of every other node; those that never needed a sync process have theirs stored by ours."""
        others = [node for node in self._gang.present() if node != 0]
        asked = (self._gang.ask(node, FinishLog(timeout=timeout)) for node in others)
        for node, log in zip(others, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(log, str) and log:
                path = self._executor.paths.root / f"events-of-node-{node}.jsonl"
                try:
                    path.write_text(log, encoding="utf-8")
                except OSError as error:
                    self._executor.log.report_full(error)
                    continue
                with contextlib.suppress(CommandFailed):  # the file stays beside the node's own log
                    await self._executor.syncer.call(StoreEventLog(node=node, path=str(path), timeout=timeout))

    def _end_data(self) -> dict[str, Any]:
        data = self._record.data
        kept = {key: data[key] for key in ("state", "verdict", "manifest", "digest", "uri", "metrics")}
        return {**kept, "files": len(data["outputs"])}


def commit_hint(job_id: str) -> str:
    """Return what to do about outputs that are not stored yet."""
    return f"when the store is back: muster commit {job_id}, or retry the task"


def _state_of(verdict: Verdict | None) -> RunState:
    if verdict is None:
        return RunState.COMPLETED
    return RunState.CANCELED if verdict.cause in (Cause.CANCEL, Cause.DEADLINE) else RunState.FAILED


def _raise_if_failed(results: Iterable[StoreResult]) -> None:
    for result in results:
        if result.error:
            raise OutputsNotStored(result.error)
