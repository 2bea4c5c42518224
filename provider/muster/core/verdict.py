"""The verdict: why a run ended, named by its first failure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum


class Cause(str, Enum):
    """What kind of event decided a run that did not complete."""

    RANK = "rank"  # a deciding rank ended with a code or a signal
    STARTER = "starter"  # the program that starts the ranks (mpirun) failed, and no rank by itself
    NODE = "node"  # a node, its agent or its guardian was lost
    PREFLIGHT = "preflight"  # a node does not fit; no rank was started
    REQUEST = "request"  # the request itself is wrong (store, credentials); no rank was started
    DEADLINE = "deadline"  # max_run_duration_seconds passed
    CANCEL = "cancel"  # someone asked for the end
    FENCED = "fenced"  # a newer attempt owns the job
    STORE = "store"  # ranks completed, but the outputs could not be committed in time


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first failure of a run. ``others`` counts the ranks that were stopped because of it.

    ``detail`` is one line: for a rank the exception line of its own log, else the reason in words.
    """

    cause: Cause
    detail: str = ""
    node: int | None = None
    host: str = ""
    rank: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    others: int = 0
    hint: str = ""

    def summary(self) -> str:
        """Give the one line for the person at 3 a.m."""
        line = self._rank_line() if self.cause is Cause.RANK else self.detail
        stopped = f"; {self.others} other{'s were' if self.others != 1 else ' was'} stopped" if self.others else ""
        hint = f" ({self.hint})" if self.hint else ""
        return line + stopped + hint

    def _rank_line(self) -> str:
        where = f"rank {self.rank} on node {self.node}" + (f" ({self.host})" if self.host else "")
        why = f": {self.detail}" if self.detail else ""
        memory = ", out of memory" if self.out_of_memory else ""
        return f"{where} failed first{why} ({self._ending()}{memory})"

    def _ending(self) -> str:
        if self.signal is not None:
            return f"signal {self.signal} {signal_name(self.signal)}"
        return f"exit {self.exit_code}"


def signal_name(number: int) -> str:
    """Give ``SIGKILL`` for 9; the bare number's text if the system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
