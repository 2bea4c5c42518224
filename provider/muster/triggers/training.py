"""TrainingTrigger: follows a run to its end for an Airflow task, deferred in a triggerer or inline in a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from muster import runner
from muster.core import event as kinds
from muster.core.codec import from_data, to_data
from muster.core.errors import UnknownRun
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.hooks.compute import ComputeHook
from muster.targets.contract import ComputeTarget
from muster.triggers.cancellation import end_job, run_in_thread
from muster.triggers.task_log import Line, TaskLogFilter
from muster.triggers.task_state import TaskKey, still_wanted

YIELD_EVERY = 500  # events after which the triggerer's other triggers may run


class TrainingTrigger(BaseTrigger):
    """
    Shows rank 0 and every error in the task log, and fires once, with how the run ended.

    The event is ``{"handle": …, "outcome": …}``, or ``{"handle": …, "unreachable": reason}`` when the triggerer can't
    reach the job (a target on another machine).

    :param handle: the job, as the data of a :class:`~muster.core.handle.JobHandle`
    :param compute_target: connection id, plain configuration, or None for this machine
    :param task: the task instance it runs for: ``dag_id``, ``run_id``, ``task_id``, ``map_index``
    """

    def __init__(
        self, *, handle: dict[str, Any], compute_target: str | dict[str, Any] | None, task: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.handle = handle
        self.compute_target = compute_target
        self.task_key = task

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: plain data, connection ids, no secret."""
        arguments = {"handle": self.handle, "compute_target": self.compute_target, "task": self.task_key}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the run from its first line, and fire when it has ended."""
        target = await self._open_target()
        async for event in self.follow(target):
            yield event

    async def follow(self, target: ComputeTarget) -> AsyncIterator[TriggerEvent]:
        """Follow the run on an open target."""
        handle = self._handle()
        try:
            async for end in self._watch(target, handle):
                yield self._event(outcome=to_data(runner.Outcome.from_event(handle, end)))
                return
        except UnknownRun as unknown:
            yield self._event(unreachable=str(unknown))

    async def on_kill(self) -> None:
        """Cancel the job if Airflow has given up its task; a triggerer that was paused gets here too."""
        handle = self._handle()
        if await sync_to_async(still_wanted)(TaskKey(**self.task_key)):
            self.log.warning("run %s continues: airflow still expects its task to run; the next try re-attaches", handle.job_id)
            return
        target = await self._open_target()
        reason = "its airflow task was ended while deferred"
        await run_in_thread(
            lambda: end_job(target, handle, reason, self._log_at)
        )  # it may take longer than airflow waits for on_kill

    def _event(self, **payload: Any) -> TriggerEvent:
        return TriggerEvent({"handle": self.handle, **payload})  # type: ignore[no-untyped-call]

    def _handle(self) -> JobHandle:
        return from_data(JobHandle, self.handle)

    async def _open_target(self) -> ComputeTarget:
        return await sync_to_async(ComputeHook(self.compute_target).get_target)()

    async def _watch(self, target: ComputeTarget, handle: JobHandle) -> AsyncIterator[Event]:
        """Log the lines of the run; yield its last event."""
        log_filter = TaskLogFilter(handle.job_id)
        seen = 0
        async for _, event in runner.watch_run(target, handle):
            seen += 1
            if seen % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            self._show(log_filter.lines(event))
            if event.kind == kinds.END:
                self._show(log_filter.rest())
                yield event
                return

    def _show(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._log_at(line.level, line.text)

    def _log_at(self, level: int, text: str) -> None:
        self.log.log(level, "%s", text)


def event_handle(event: Mapping[str, Any]) -> JobHandle:
    """Read the handle from a fired event's payload."""
    return from_data(JobHandle, event["handle"])
