"""Watches one Slurm job by its nodes' logs and Slurm's states, over as many starts as Slurm gives it."""

from __future__ import annotations

import dataclasses
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from muster.core.codec import from_data, to_data
from muster.core.event import NOTE, STATE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.cancel_request import CancelRequest
from muster.targets.slurm.cluster import SlurmOutage
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.ledger import SlurmTiming
from muster.targets.slurm.query import SlurmJobStatus
from muster.targets.slurm.states import OUT_OF_MEMORY, waiting_for
from muster.targets.watch.job_watch import JobWatch, make_end
from muster.targets.watch.news import News

COMPLETING = "COMPLETING"  # processes of the job may still be there, also where Slurm queues it again
NO_OUTPUT = "nothing was said; look whether its nodes see this folder"
SHOWN_OUTPUT = 300  # characters of a batch job's output that are shown with its end
_NO_MEMORY = re.compile(r"memory limit|oom.kill|out of memory", re.IGNORECASE)


class AttemptFeed(Protocol):
    """Reports the node logs of the attempt that is watched."""

    def follow(self, attempt: int, folders: list[str], offsets: list[int]) -> None: ...

    def finish(self) -> None: ...


class SlurmWatch(JobWatch):
    """Slurm may start a job again by itself: then this watch goes on with the next attempt, and only the last END counts."""

    def __init__(
        self, handle: JobHandle, cursor: Cursor, record: JobRecord, root: str, *, timing: SlurmTiming, feed: AttemptFeed
    ) -> None:
        super().__init__(handle, cursor, timing)
        self.number = record.number(handle)
        self._feed = feed
        self._not_responding = timing.not_responding
        self._base = record.base(handle)
        self._nodes = record.nodes
        self._paths = JobPaths(root=Path(root), job_id=handle.job_id)
        self._latest = max(record.latest(self._base, handle.generation), handle.attempt)  # that Slurm has started
        self._status: SlurmJobStatus | None = None
        self._doubts = 0
        self._shown = ""  # what of Slurm's own was shown last
        self._state = ""  # the last state of the run's own
        self._cancel: CancelRequest | None = None
        self._output = ""
        first = cursor.attempt if self._base <= cursor.attempt <= self._latest else handle.attempt
        self._start_attempt(first, cursor)

    def consume(self, news: News) -> Iterator[Event]:
        """Yield the events that news bring."""
        if isinstance(news, SlurmOutage):
            yield from self._on_outage(news)
        elif isinstance(news, SlurmJobStatus):
            yield from self._on_status(news)
        else:
            for event in super().consume(news):
                if event.kind == STATE:
                    self._state, self._shown = event.data["state"], ""
                yield event
        yield from self._next_start()

    @property
    def concluded(self) -> bool:
        """Return whether the run is over, and all of its log has been read."""
        if self._decided:
            return self.logs_ended
        return self._is_over and not self._superseded and self.logs_ended

    # -- the nodes

    def _start_attempt(self, attempt: int, cursor: Cursor) -> None:
        self._attempt, self._is_followed, self._is_finished = attempt, False, False
        self._reset(attempt, cursor, hosts=("",) * self._nodes)

    def _follow(self) -> None:
        """Start to follow the logs of the attempt's nodes, once."""
        if not self._is_followed:
            self._is_followed = True
            nodes = range(self._nodes)
            folders = [str(self._paths.node(self.handle.generation, self._attempt, node).root) for node in nodes]
            self._feed.follow(self._attempt, folders, [self.position(node) for node in nodes])

    def _finish(self) -> None:
        """Finish the nodes' logs: no process of the attempt is left, so each node ends when its log is read to the end."""
        self._follow()
        if not self._is_finished:
            self._is_finished = True
            self._feed.finish()

    # -- Slurm

    def _on_status(self, status: SlurmJobStatus) -> Iterator[Event]:
        doubtful = self._status is not None and self._status.name == status.name and status.state.doubtful
        self._doubts = self._doubts + 1 if doubtful else 0
        self._status = status
        self._latest = max(self._latest, self._base + status.restarts)
        if self._is_over or (self._superseded and status.name != COMPLETING):
            self._finish()
        elif not status.state.waits:
            self._follow()
        yield from self._show_state(status)

    @property
    def _superseded(self) -> bool:
        return self._attempt < self._latest

    @property
    def _is_over(self) -> bool:
        state = self._status.state if self._status is not None else None
        return state is not None and state.over and (not state.doubtful or self._doubts > 0)

    @property
    def end_is_final(self) -> bool:
        """Return whether the END stays as the nodes wrote it, whatever else is known of the run."""
        return self.end is not None and self._decided and not _may_lack_memory(_verdict(self.end))

    @property
    def _decided(self) -> bool:
        """Return whether the attempt's END is one that nothing Slurm may still do or report could change."""
        if self.end is None:
            return False
        verdict = _verdict(self.end)
        killed = verdict is not None and verdict.signal == signal.SIGKILL and not verdict.out_of_memory
        return verdict is None or (verdict.cause is not Cause.NODE and not (killed and not self._is_over))

    def _show_state(self, status: SlurmJobStatus) -> Iterator[Event]:
        """Show what the job waits for, once per change; when it waits no more and its nodes are to report, nothing."""
        shown = ""
        if status.state.waits and not (self._superseded and not self.logs_ended):
            again = f", attempt {self._attempt}" if self._attempt > self._base else ""
            shown = f"Slurm job {self.number}{again} waits {waiting_for(status.reason)}"
        elif status.name == "SUSPENDED":
            shown = f"Slurm job {self.number} is suspended"
        if shown == self._shown:
            return
        before, self._shown = self._shown, shown
        if shown:
            yield _now(STATE, state=RunState.QUEUED.value, reason=shown)
        elif before and self._state:
            yield _now(STATE, state=self._state)

    def _on_outage(self, outage: SlurmOutage) -> Iterator[Event]:
        shown = f"{outage.reason}; trying on"
        if time.monotonic() > outage.since + self._not_responding and not self._shown.endswith("; trying on"):
            self._shown = shown
            yield _now(STATE, state=RunState.NOT_RESPONDING.value, reason=shown)

    # -- the next start, and the end

    def _next_start(self) -> Iterator[Event]:
        """Start the next attempt once the log of the last is read to its end."""
        if not self._superseded or self._decided or not self.logs_ended:
            return
        verdict = _verdict(self.end) if self.end else None
        why = verdict.detail if verdict else "its log ends without an end of the run"
        text = f"attempt {self._attempt} ended: {why}; Slurm starts job {self.number} again as attempt {self._attempt + 1}"
        yield _now(NOTE, level="warning", text=text)
        self._start_attempt(self._attempt + 1, Cursor())
        if self._status is not None:
            yield from self._on_status(self._status)

    def record_outside(self, cancel: CancelRequest | None, output: str) -> None:
        """Keep what the nodes could not write: who asked for the run's end, and the last output of the batch job."""
        self._cancel, self._output = cancel, output

    def _last_end(self) -> Event:
        """Return the run's END, with what Slurm knows of it."""
        end, status = self.end, self._status
        if end is not None and self._decided:
            return self._with_memory(end)
        verdict = _verdict(end) if end is not None else None
        ruling = self._slurm_verdict()
        if verdict is None or ruling.cause is not Cause.NODE:
            verdict = ruling
        elif status is not None and status.lost:
            verdict = dataclasses.replace(verdict, hint=verdict.hint or status.lost)
        state = RunState.CANCELED if verdict.cause in (Cause.CANCEL, Cause.DEADLINE) else RunState.FAILED
        if end is None:
            return self._with_memory(make_end(state, verdict))
        data = {**end.data, "state": state.value, "verdict": to_data(verdict)}
        return self._with_memory(dataclasses.replace(end, data=data))

    def _slurm_verdict(self) -> Verdict:
        """Return why the run ended, as Slurm has it; a cancel request comes before that."""
        if self._cancel:
            return Verdict(cause=self._cancel.cause, detail=self._cancel.reason)
        status = self._status
        text = status.state.text if status else "ended"
        lost = f": {status.lost}" if status and status.lost else ""
        detail = f"Slurm job {self.number} {text or 'ended'}{lost}"
        if self.end is None:
            detail += f", without a word of its agents; {self._output[-SHOWN_OUTPUT:] or NO_OUTPUT} ({self._log_file})"
        return Verdict(cause=status.state.cause if status else Cause.NODE, detail=detail)

    def _with_memory(self, end: Event) -> Event:
        """Add that Slurm ended the job for lack of memory, where it did; some releases report so only in words."""
        verdict = _verdict(end)
        by_slurm = (self._status is not None and self._status.name == OUT_OF_MEMORY) or _NO_MEMORY.search(self._output)
        if verdict is None or not by_slurm or not _may_lack_memory(verdict):
            return end
        verdict = dataclasses.replace(verdict, out_of_memory=True)
        return dataclasses.replace(end, data={**end.data, "verdict": to_data(verdict)})

    @property
    def _log_file(self) -> Path:
        return self._paths.batch(self.handle.generation, self._base).output


def _verdict(end: Event) -> Verdict | None:
    return from_data(Verdict, end.data["verdict"]) if end.data["verdict"] else None


def _may_lack_memory(verdict: Verdict | None) -> bool:
    return verdict is not None and not (verdict.cause is Cause.RANK and verdict.signal != signal.SIGKILL)


def _now(kind: str, **data: object) -> Event:
    return Event(time=time.time(), kind=kind, node=0, data=data)
