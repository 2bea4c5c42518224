"""Forwards a node's log, which a host streams, to the inbox of the job's watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from muster.core.errors import MusterError
from muster.core.handle import JobHandle
from muster.targets.hosts.background import background
from muster.targets.hosts.log_client import LogClient, NodeWatch
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.news import Failed, Lines, NodeEnded

END = b'"k": "end"'


@dataclass(kw_only=True)
class NodeFeed:
    """One node of a watched job; ``on_end`` is called when nothing of it is left, before that is reported.

    Of a node that is watched from outside, how it was lost is known there.
    """

    inbox: Inbox
    job: JobHandle
    node: int
    attempt: int = 0
    host: str = ""
    on_end: Callable[[], None] = lambda: None
    watch: NodeWatch | None = None
    over: bool = False
    has_end: bool = False  # the run's END is in the log
    is_gone: bool = False  # its host has reported so

    def start(self, logs: LogClient, folder: str, offset: int, *, outside: bool = False) -> None:
        """Report of the node from an offset of its log on."""
        self.over = self.is_gone = False
        self.watch = logs.watch(folder, offset, self, outside=outside)

    def stop(self) -> None:
        """Remove a listener."""
        if self.watch is not None:
            self.watch.stop()

    @property
    def lost_since(self) -> float:
        """Return since when its host has been unreachable, by time.monotonic(); 0 if it answers."""
        return self.watch.client.lost_since if self.watch is not None else 0.0

    def receive(self, lines: bytes, skipped: int) -> bool:
        """Forward lines; return whether there is room for more."""
        self.has_end = self.has_end or END in lines
        return self.inbox.put(self.job, Lines(node=self.node, data=lines, skipped=skipped, attempt=self.attempt))

    def when_room(self, resume: Callable[[], object]) -> None:
        """Call ``resume`` in the background loop once there is room."""
        self.inbox.when_room(lambda: background().call(resume))

    def end(self, end: dict[str, Any]) -> None:
        """Report that nothing of the node is left, as its host has it."""
        self.is_gone = True
        rebooted = "the host was rebooted" if end.get("rebooted") else "agent and guardian are gone without a word"
        outside = self.watch is not None and self.watch.outside
        self.report_end("" if end.get("orderly") or outside else rebooted)

    def report_end(self, how: str) -> None:
        """Report how the node was lost, "" if it was not; once."""
        if not self.over:
            self.over = True
            self.stop()
            self.on_end()
            self.inbox.put(self.job, NodeEnded(node=self.node, how=how, attempt=self.attempt))

    def fail(self, error: MusterError) -> None:
        """Report that the node can't be watched."""
        self.inbox.put(self.job, Failed(error=error))
