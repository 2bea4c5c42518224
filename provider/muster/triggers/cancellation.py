"""Cancels the job of a task that Airflow has given up; retries on an unreachable target, and logs what may be left."""

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

TIMEOUT = 600.0  # seconds for which a cancel is retried on an unreachable target; nothing retries after that
FIRST_DELAY = 0.5  # seconds
LONGEST_DELAY = 10.0

LogAt = Callable[[int, str], None]  # receives level and text of a log line


def end_job(
    target: ComputeTarget, handle: JobHandle, reason: str, log_at: LogAt, *, timeout: float = TIMEOUT, release: bool = True
) -> None:
    """Cancel the job, retrying on an unreachable target for ``timeout`` seconds; a failure is logged, not raised.

    ``release``: also release the target's files of the run; not while a session still reads them.
    """
    name = f"run {handle.job_id} generation {handle.generation}"
    try:
        was_running = _cancel(lambda: target.cancel(handle, handle.generation, reason), name, log_at, timeout)
    except MusterError as error:
        remedy = f"`muster cancel {handle.job_id} --target {handle.target}`"
        log_at(logging.ERROR, f"{name} may still be running, it could not be cancelled: {error}; cancel it by {remedy}")
        return
    log_at(logging.WARNING, f"{name}: {_result(was_running)}")
    if release:
        runner.release(target, handle)


async def run_in_thread(work: Callable[[], None]) -> None:
    """Run ``work`` in a daemon thread and wait for it; the thread continues if the wait is cancelled."""
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


def _cancel(cancel: Callable[[], bool], name: str, log_at: LogAt, timeout: float) -> bool:
    outage = Outage()

    def cancel_once() -> bool:
        try:
            return cancel()
        except (UnknownRun, StaleGeneration):
            return False

    def report(error: Exception) -> None:
        if outage.failed():
            log_at(logging.WARNING, f"{name} can't be cancelled now: {error}; retrying for {timeout:g} s")

    backoff = Backoff(FIRST_DELAY, LONGEST_DELAY, jitter=(0.5, 1.0))
    return retry(cancel_once, TargetError, backoff, timeout=timeout, on_retry=report)


def _result(was_running: bool) -> str:
    """Return the result of a cancel in words."""
    return "cancelled" if was_running else "nothing to cancel: it has ended, or a newer generation owns it"
