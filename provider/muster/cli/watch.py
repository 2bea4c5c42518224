"""Waiting for a run at a terminal: its events are printed, Ctrl-C and SIGTERM cancel it, its end is the exit code."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from muster import runner
from muster.cli import BAD_REQUEST, CANCELLED, FAILED, OK, SIGNALS, drop_stdout, error_line, formatting
from muster.core import event
from muster.core.codec import to_data
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.core.state import RunState
from muster.core.verdict import Cause

if TYPE_CHECKING:
    from muster.runner import Outcome
    from muster.targets.contract import ComputeTarget

CANCEL_REASON = "cancelled at the command line"


class Screen:
    """Prints events, as JSON or for a person. A reader that goes away does not end the run."""

    def __init__(self, run: str, *, as_json: bool) -> None:
        self._run = run
        self._json = as_json
        self._since = time.monotonic()

    def note(self, line: str, level: str = "info") -> None:
        """Print something that this command has to say."""
        self.show(Event(time=time.time(), kind=event.NOTE, node=formatting.HERE, data={"level": level, "text": line}))

    def show(self, item: Event) -> None:
        """Print an event."""
        self._print(item.to_line().rstrip("\n") if self._json else formatting.event_line(item))

    def close(self, outcome: Outcome) -> None:
        """Print how the run ended."""
        if outcome.verdict:
            error_line(outcome.verdict.summary())
        self._print(self._last_json(outcome) if self._json else self._last_line(outcome))

    def _last_json(self, outcome: Outcome) -> str:
        verdict = to_data(outcome.verdict) if outcome.verdict else None
        last = {"run": outcome.run, "state": outcome.state.value, "verdict": verdict, "manifest": outcome.manifest}
        return json.dumps(last, ensure_ascii=False)

    def _last_line(self, outcome: Outcome) -> str:
        took = formatting.duration(time.monotonic() - self._since)
        place = outcome.manifest or outcome.uri
        return f"[muster] {outcome.run} {outcome.state.value} after {took}" + (f": {place}" if place else "")

    def _print(self, line: str | None) -> None:
        try:
            if line is not None:
                print(line)
        except BrokenPipeError:
            drop_stdout()


def exit_code(outcome: Outcome) -> int:
    """Give the exit code of an outcome; a request that the nodes refused is a bad request."""
    if outcome.state is RunState.COMPLETED:
        return OK
    if outcome.state is RunState.CANCELED:
        return CANCELLED
    refused = outcome.verdict is not None and outcome.verdict.cause is Cause.REQUEST
    return BAD_REQUEST if refused else FAILED


def watch(target: ComputeTarget, handle: JobHandle, screen: Screen) -> int:
    """Wait for the end of a run and give the exit code; one that was cancelled from here is cancelled, whatever it died of."""
    outcome, cancelled = asyncio.run(_watch(target, handle, screen))
    screen.close(outcome)
    runner.release(target, handle)
    return CANCELLED if cancelled and outcome.state is not RunState.COMPLETED else exit_code(outcome)


async def _watch(target: ComputeTarget, handle: JobHandle, screen: Screen) -> tuple[Outcome, bool]:
    cancel = _Cancel(target, handle, screen)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, cancel.ask)
    outcome = await runner.outcome(target, handle, screen.show)
    return outcome, await cancel.done()


class _Cancel:
    """Cancels the run on the first signal; later ones change nothing, for the end is already on its way."""

    def __init__(self, target: ComputeTarget, handle: JobHandle, screen: Screen) -> None:
        self._target = target
        self._handle = handle
        self._screen = screen
        self._task: asyncio.Task[bool] | None = None

    def ask(self) -> None:
        """Begin to cancel."""
        if self._task is None:
            self._screen.note(f"cancelling {self._handle.job_id}")
            handle = self._handle
            work = asyncio.to_thread(runner.cancel, self._target, handle, handle.generation, CANCEL_REASON)
            self._task = asyncio.ensure_future(work)

    async def done(self) -> bool:
        """Wait until a cancel that was begun has ended; says whether there was one and it hit."""
        return self._task is not None and await self._task
