"""Follows a run at a terminal: prints its events, cancels it on Ctrl-C and SIGTERM, turns its outcome into an exit code."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from muster.cli import BAD_REQUEST, CANCELLED, FAILED, OK, SIGNALS, drop_stdout, error_line, formatting
from muster.core import event
from muster.core.codec import to_data
from muster.core.event import Event
from muster.core.state import RunState
from muster.core.verdict import Cause

if TYPE_CHECKING:
    from muster.client import SubmittedRun
    from muster.runner import Outcome

CANCEL_REASON = "cancelled at the command line"


class Screen:
    """Prints events, as JSON or for a person. The run continues when the reader of the output has gone."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._since = time.monotonic()

    def note(self, line: str, level: str = "info") -> None:
        """Print a message of this command."""
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


def exit_code_of(outcome: Outcome) -> int:
    """Return the exit code of an outcome; a request that the nodes refused is a bad request."""
    if outcome.state is RunState.COMPLETED:
        return OK
    if outcome.state is RunState.CANCELED:
        return CANCELLED
    refused = outcome.verdict is not None and outcome.verdict.cause is Cause.REQUEST
    return BAD_REQUEST if refused else FAILED


def follow_run(run: SubmittedRun, screen: Screen) -> int:
    """Wait for the end of a run and return the exit code; a run cancelled from here counts as cancelled, whatever ended it."""
    outcome, cancelled = asyncio.run(_follow(run, screen))
    screen.close(outcome)
    run.release()
    return CANCELLED if cancelled and outcome.state is not RunState.COMPLETED else exit_code_of(outcome)


async def _follow(run: SubmittedRun, screen: Screen) -> tuple[Outcome, bool]:
    cancellation = _Cancellation(run, screen)
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, cancellation.start)
    outcome = await run.wait(screen.show)
    return outcome, await cancellation.hit()


class _Cancellation:
    """Cancels the run on the first signal; later signals have no effect."""

    def __init__(self, run: SubmittedRun, screen: Screen) -> None:
        self._run = run
        self._screen = screen
        self._task: asyncio.Task[bool] | None = None

    def start(self) -> None:
        """Start to cancel the run, in a thread."""
        if self._task is None:
            self._screen.note(f"cancelling {self._run.id}")
            self._task = asyncio.ensure_future(asyncio.to_thread(self._run.cancel, CANCEL_REASON))

    async def hit(self) -> bool:
        """Wait for a cancellation that was started; return whether there was one and the run was running."""
        return self._task is not None and await self._task
