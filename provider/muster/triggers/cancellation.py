"""Ends the job of a task that Airflow has given up, also where its target is away just then, and says what may be left."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from muster import runner
from muster.core.errors import MusterError, StaleGeneration, TargetError, UnknownRun
from muster.core.handle import JobHandle
from muster.core.retry import Backoff, Outage, retry
from muster.targets.contract import ComputeTarget

PATIENCE = 600.0  # seconds in which a target that is away may come back; nobody asks again after that
FIRST_DELAY = 0.5  # seconds
LONGEST_DELAY = 10.0

Tell = Callable[[int, str], None]  # level and text of a log line


def end_job(
    target: ComputeTarget, handle: JobHandle, reason: str, tell: Tell, *, patience: float = PATIENCE, release: bool = True
) -> None:
    """End the job, asking a target that is away again for ``patience`` seconds; that it could not be ended is told, not raised.

    ``release``: also let the target go of what is left; not while somebody still reads it.
    """
    name = f"run {handle.job_id} generation {handle.generation}"
    try:
        hit = _cancel(lambda: target.cancel(handle, handle.generation, reason), name, tell, patience)
    except MusterError as error:
        remedy = f"`muster cancel {handle.job_id} --target {handle.target}`"
        tell(logging.ERROR, f"{name} may still be running, it could not be ended: {error}; end it by {remedy}")
        return
    tell(logging.WARNING, f"{name}: {_met(hit)}")
    if release:
        runner.release(target, handle)


async def apart(work: Callable[[], None]) -> None:
    """Do something in a thread of its own and wait for it; it goes on when the waiting ends, and holds no process back."""
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name="muster-end", daemon=True).start()
    await asyncio.wrap_future(done)


def _cancel(cancel: Callable[[], bool], name: str, tell: Tell, timeout: float) -> bool:
    outage = Outage()

    def cancel_once() -> bool:
        try:
            return cancel()
        except (UnknownRun, StaleGeneration):
            return False

    def report(error: Exception) -> None:
        if outage.failed():
            tell(logging.WARNING, f"{name} can't be ended now: {error}; it is tried again for {timeout:g} s")

    backoff = Backoff(FIRST_DELAY, LONGEST_DELAY, jitter=(0.5, 1.0))
    return retry(cancel_once, TargetError, backoff, timeout=timeout, on_retry=report)


def _met(hit: bool) -> str:
    """Say in words what a cancel met."""
    return "cancelled" if hit else "nothing to cancel: it has ended, or a newer generation owns it"
