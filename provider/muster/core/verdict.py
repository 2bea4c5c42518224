"""The verdict: why a run ended, named by its first failure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

MOST_NAMED = 3  # nodes whose reasons are in the summary line; the verdict has all of them


class Cause(str, Enum):
    """Kind of the event that decided a run which did not complete."""

    RANK = "rank"  # a deciding rank ended with a code or a signal
    SPAWNER = "spawner"  # the program that starts the ranks (mpirun) failed, and no rank by itself
    NODE = "node"  # a node, its agent or its guardian was lost
    PREFLIGHT = "preflight"  # a node does not fit; no rank was started
    REQUEST = "request"  # the request itself is wrong (store, credentials); no rank was started
    DEADLINE = "deadline"  # max_run_duration_seconds passed
    CANCEL = "cancel"  # someone asked for the end
    FENCED = "fenced"  # a newer attempt owns the job
    STORE = "store"  # ranks completed, but the outputs could not be committed in time


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A node that does not fit its job, with the reason in words. ``host`` is the node's host name, "" if not reported."""

    node: int
    host: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node}{f' ({self.host})' if self.host else ''} does not fit: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first failure of a run. ``others`` counts the ranks that were stopped because of it.

    ``detail`` is one line: for a rank the exception line of its own log, else the reason in words. ``violations`` are all nodes
    that were found unfit before a rank was started, each once, the one named by ``node`` and ``host`` first; a target that
    has other hosts for them may try again with those.
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
    violations: tuple[Violation, ...] = ()

    def summary(self) -> str:
        """Return the one-line summary for the person at 3 a.m."""
        line = self._rank_line() if self.cause is Cause.RANK else self.detail
        stopped = f"; {self.others} other{'s were' if self.others != 1 else ' was'} stopped" if self.others else ""
        hint = f" ({self.hint})" if self.hint else ""
        return line + stopped + hint

    def _rank_line(self) -> str:
        failed = f"rank {self.rank} on node {self.node}" + (f" ({self.host})" if self.host else "")
        why = f": {self.detail}" if self.detail else ""
        memory = ", out of memory" if self.out_of_memory else ""
        return f"{failed} failed first{why} ({self._ending()}{memory})"

    def _ending(self) -> str:
        if self.signal is not None:
            return f"signal {self.signal} {signal_name(self.signal)}"
        return f"exit {self.exit_code}"


def unfit(violations: Sequence[Violation]) -> Verdict:
    """Return the verdict on nodes that don't fit, at least one; the first of them names it."""
    first, *_ = violations
    named = "; ".join(str(violation) for violation in violations[:MOST_NAMED])
    left = ", ".join(str(violation.node) for violation in violations[MOST_NAMED:])
    detail = named + (f"; nor do nodes {left}" if left else "") + "; no rank was started"
    return Verdict(cause=Cause.PREFLIGHT, node=first.node, host=first.host, detail=detail, violations=tuple(violations))


def signal_name(number: int) -> str:
    """Return ``SIGKILL`` for 9; the number as text if the system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
