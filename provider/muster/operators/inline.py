"""Waits in the worker: runs the trigger's code in a thread, so that signals and timeouts still reach the main thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

from airflow.triggers.base import TriggerEvent


def first_event(events: AsyncIterator[TriggerEvent]) -> Any:
    """Run a trigger until its first event, and return the payload.

    An exception raised in the waiting thread (Airflow's execution timeout, say) ends the wait, not the job.
    """
    waiting = _Waiting(events)
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(waiting.run,), name="muster-wait", daemon=True).start()
    try:
        return waiting.answer.result()
    finally:
        waiting.stop()


class _Waiting:
    def __init__(self, events: AsyncIterator[TriggerEvent]) -> None:
        self.answer: Future[Any] = Future()
        self._events = events
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[Any] | None = None

    def run(self) -> None:
        try:
            self._task = self._loop.create_task(self._first())
            self.answer.set_result(self._loop.run_until_complete(self._task))
        except BaseException as error:
            self.answer.set_exception(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def stop(self) -> None:
        if self._task is not None and not self.answer.done():
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _first(self) -> Any:
        async for event in self._events:
            return event.payload
        raise RuntimeError("the trigger ended without an event")
