"""SlurmWatch: one job as its nodes' logs and Slurm tell it, over as many starts as Slurm gives it; knows when it is over."""

from __future__ import annotations

import dataclasses
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from muster.core.codec import from_data, to_data
from muster.core.event import END, NOTE, STATE, Cursor, Event
from muster.core.handle import JobHandle
from muster.core.paths import JobPaths
from muster.core.state import RunState
from muster.core.verdict import Cause, Verdict
from muster.node.cancel_request import CancelRequest
from muster.targets.job_watch import JobWatch
from muster.targets.slurm.cluster import Away, Cluster
from muster.targets.slurm.feed import Feed, Lines, News, Silence
from muster.targets.slurm.job_record import JobRecord
from muster.targets.slurm.query import SlurmJobStatus
from muster.targets.slurm.states import OUT_OF_MEMORY, waiting_for

COMPLETING = "COMPLETING"  # processes of the job may still be there, also where Slurm queues it again
UNHEARD = "nothing was said; look whether its nodes see this folder"
MOST_SAID = 300  # characters of what a batch job said that are shown with its end
_NO_MEMORY = re.compile(r"memory limit|oom.kill|out of memory", re.IGNORECASE)
AWAY_PATIENCE = 30.0  # seconds without an answer of Slurm after which the run is shown as not responding


class SlurmWatch:
    """Hears news and gives events; ``cursor`` is after the event that was given last.

    Slurm may start a job again by itself: then the next attempt is watched by the same watch, and only the last END counts.
    """

    def __init__(self, handle: JobHandle, cursor: Cursor, known: JobRecord, root: str) -> None:
        self.handle = handle
        self.number = known.number(handle)
        self.over = False
        self._base = known.base(handle)
        self._nodes = known.nodes
        self._paths = JobPaths(root=Path(root), job_id=handle.job_id)
        self._latest = max(
            known.latest(self._base, handle.generation), handle.attempt
        )  # that Slurm has started, as far as known
        self._feed: Feed | None = None
        self._told: SlurmJobStatus | None = None
        self._doubts = 0
        self._shown = ""  # what of Slurm's own was shown last
        self._state = ""  # the last state of the run's own
        first = cursor.attempt if self._base <= cursor.attempt <= self._latest else handle.attempt
        self._begin(first, cursor)

    def open(self, cluster: Cluster, tell: Callable[[News], None]) -> None:
        """Begin to listen."""
        self._feed = Feed(cluster, self.number, tell)
        self._feed.open()

    def close(self) -> None:
        """Listen no more."""
        if self._feed is not None:
            self._feed.close()

    @property
    def cursor(self) -> Cursor:
        return self._log.cursor

    def hear(self, news: News) -> Iterator[Event]:
        """Take what is new; gives the events that it brings.

        :raises MusterError: the job can't be watched.
        """
        if isinstance(news, Exception):
            raise news
        if isinstance(news, Away):
            yield from self._not_responding(news)
        elif isinstance(news, SlurmJobStatus):
            yield from self._hear_slurm(news)
        elif news.attempt == self._attempt:
            yield from self._hear_node(news)
        yield from self._next_start()

    @property
    def ended(self) -> bool:
        """Whether the run is over, and all of its log has been heard."""
        if self._decided:
            return self._log.concluded
        return self._is_over and not self._superseded and self._log.concluded

    # -- the nodes

    def _begin(self, attempt: int, cursor: Cursor) -> None:
        self._attempt, self._follows, self._hushed = attempt, False, False
        self._log = JobWatch(dataclasses.replace(self.handle, attempt=attempt), cursor, self._nodes)

    def _hear_node(self, news: Lines | Silence) -> Iterator[Event]:
        if isinstance(news, Silence):
            self._log.fall_silent(news.node)
            return
        for event in self._log.take(news.node, news.data):
            if event.kind == STATE:
                self._state, self._shown = event.data["state"], ""
            yield event
        news.read(len(news.data))

    def _follow(self) -> None:
        """Have the logs of the attempt's nodes told, once."""
        if self._follows or self._feed is None:
            return
        self._follows = True
        nodes = range(self._nodes)
        folders = [self._paths.node(self.handle.generation, self._attempt, node).root for node in nodes]
        self._feed.follow(self._attempt, folders, [self.cursor.offset(node) for node in nodes])

    def _hush(self) -> None:
        """Nothing of the attempt is left on its nodes: when their logs are read to the end, they are silent."""
        self._follow()
        if not self._hushed and self._feed is not None:
            self._hushed = True
            self._feed.over()

    # -- Slurm

    def _hear_slurm(self, told: SlurmJobStatus) -> Iterator[Event]:
        doubtful = self._told is not None and self._told.name == told.name and told.state.doubtful
        self._doubts = self._doubts + 1 if doubtful else 0
        self._told = told
        self._latest = max(self._latest, self._base + told.restarts)
        if self._is_over or (self._superseded and told.name != COMPLETING):
            self._hush()
        elif not told.state.waits:
            self._follow()
        yield from self._show_state(told)

    @property
    def _superseded(self) -> bool:
        return self._attempt < self._latest

    @property
    def _is_over(self) -> bool:
        state = self._told.state if self._told is not None else None
        return state is not None and state.over and (not state.doubtful or self._doubts > 0)

    @property
    def settled(self) -> bool:
        """Whether the END stays as the nodes wrote it, whatever else is known of the run."""
        end = self._log.end
        return end is not None and self._decided and not _may_lack_memory(_verdict(end))

    @property
    def _decided(self) -> bool:
        """Whether the attempt's END is one that nothing Slurm may still do or say could change."""
        end = self._log.end
        if end is None:
            return False
        verdict = _verdict(end)
        killed = verdict is not None and verdict.signal == signal.SIGKILL and not verdict.out_of_memory
        return verdict is None or (verdict.cause is not Cause.NODE and not (killed and not self._is_over))

    def _show_state(self, told: SlurmJobStatus) -> Iterator[Event]:
        """Show what the job waits for, once per change; when it waits no more and its nodes are to speak, nothing."""
        shown = ""
        if told.state.waits and not (self._superseded and not self._log.concluded):
            again = f", attempt {self._attempt}" if self._attempt > self._base else ""
            shown = f"Slurm job {self.number}{again} waits {waiting_for(told.reason)}"
        elif told.name == "SUSPENDED":
            shown = f"Slurm job {self.number} is suspended"
        if shown == self._shown:
            return
        before, self._shown = self._shown, shown
        if shown:
            yield _now(STATE, state=RunState.QUEUED.value, reason=shown)
        elif before and self._state:
            yield _now(STATE, state=self._state)

    def _not_responding(self, away: Away) -> Iterator[Event]:
        shown = f"{away.reason}; trying on"
        if time.monotonic() > away.since + AWAY_PATIENCE and not self._shown.endswith("; trying on"):
            self._shown = shown
            yield _now(STATE, state=RunState.NOT_RESPONDING.value, reason=shown)

    # -- the next start, and the end

    def _next_start(self) -> Iterator[Event]:
        """Go on with the next attempt once the last one's log is at its end."""
        if not self._superseded or self._decided or not self._log.concluded:
            return
        verdict = _verdict(self._log.end) if self._log.end else None
        why = verdict.detail if verdict else "it ended without a word"
        text = f"attempt {self._attempt} ended: {why}; Slurm starts job {self.number} again as attempt {self._attempt + 1}"
        yield _now(NOTE, level="warning", text=text)
        self._begin(self._attempt + 1, Cursor())
        if self._told is not None:
            yield from self._hear_slurm(self._told)

    def conclusion(self, wish: CancelRequest | None, said: str) -> Event:
        """Give the run's END, with what Slurm knows of it.

        Where nodes could not say it: ``wish`` is what somebody asked for, ``said`` the last that the batch job said.
        """
        self.over = True
        end, told = self._log.end, self._told
        if end is not None and self._decided:
            return _out_of_memory(end, told, said)
        verdict = _verdict(end) if end is not None else None
        ruling = self._slurms_verdict(told, wish, said)
        if verdict is None or ruling.cause is not Cause.NODE:
            verdict = ruling
        elif told is not None and told.lost:
            verdict = dataclasses.replace(verdict, hint=verdict.hint or told.lost)
        state = RunState.CANCELED if verdict.cause in (Cause.CANCEL, Cause.DEADLINE) else RunState.FAILED
        data = end.data if end is not None else {"manifest": None, "digest": None, "uri": "", "metrics": {}, "files": 0}
        data = {**data, "state": state.value, "verdict": to_data(verdict)}
        ended = Event(time=end.time if end else time.time(), kind=END, node=0, data=data)
        return _out_of_memory(ended, told, said)

    def _slurms_verdict(self, told: SlurmJobStatus | None, wish: CancelRequest | None, said: str) -> Verdict:
        """Give why the run ended, as Slurm has it; a wish of ours comes before that."""
        if wish:
            return Verdict(cause=wish.cause, detail=wish.reason)
        text = told.state.text if told else "ended"
        lost = f": {told.lost}" if told and told.lost else ""
        detail = f"Slurm job {self.number} {text or 'ended'}{lost}"
        if self._log.end is None:
            detail += f", without a word of its agents; {said[-MOST_SAID:] or UNHEARD} ({self._log_file})"
        return Verdict(cause=told.state.cause if told else Cause.NODE, detail=detail)

    @property
    def _log_file(self) -> Path:
        return self._paths.batch(self.handle.generation, self._base).output


def _verdict(end: Event) -> Verdict | None:
    return from_data(Verdict, end.data["verdict"]) if end.data["verdict"] else None


def _may_lack_memory(verdict: Verdict | None) -> bool:
    return verdict is not None and not (verdict.cause is Cause.RANK and verdict.signal != signal.SIGKILL)


def _out_of_memory(end: Event, told: SlurmJobStatus | None, said: str) -> Event:
    """Add that Slurm ended the job for lack of memory, where it did; some releases only say so in words."""
    verdict = _verdict(end)
    by_slurm = (told is not None and told.name == OUT_OF_MEMORY) or _NO_MEMORY.search(said)
    if verdict is None or not by_slurm or not _may_lack_memory(verdict):
        return end
    verdict = dataclasses.replace(verdict, out_of_memory=True)
    return dataclasses.replace(end, data={**end.data, "verdict": to_data(verdict)})


def _now(kind: str, **data: object) -> Event:
    return Event(time=time.time(), kind=kind, node=0, data=data)
