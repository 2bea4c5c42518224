"""News of a watched job, one frozen type for each kind of fact."""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.errors import MusterError, TargetError
from muster.core.event import Event
from muster.core.handle import JobHandle
from muster.core.state import RunState

OVERHEAD = 512  # bytes that a piece of news takes beside its lines


@dataclass(frozen=True, kw_only=True)
class News:
    """One fact. ``attempt``: of which attempt, where the scheduler starts a job again by itself; 0: the watched one."""

    attempt: int = 0

    @property
    def size(self) -> int:
        """Return how many bytes of the inbox it takes."""
        return OVERHEAD


@dataclass(frozen=True, kw_only=True)
class NodesAssigned(News):
    """The job has nodes, on these hosts; a host without a name of its own is ""."""

    hosts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lines(News):
    """Whole lines of a node's log, which follow a line of ``skipped`` bytes that was too long to be read."""

    node: int
    data: bytes
    skipped: int = 0

    @property
    def size(self) -> int:
        """Return how many bytes of the inbox it takes."""
        return len(self.data) + OVERHEAD


@dataclass(frozen=True, kw_only=True)
class NodeEnded(News):
    """End of a node, whose log was read to the end. ``how`` it was lost, "" if its agent ended it in order."""

    node: int
    how: str = ""
    out_of_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class NodeRestarted(News):
    """A node that had ended was started again."""

    node: int


@dataclass(frozen=True, kw_only=True)
class Note(News):
    """Message for people."""

    text: str
    node: int = 0
    level: str = "warning"


@dataclass(frozen=True, kw_only=True)
class State(News):
    """The target puts the run into a state, for a ``reason``."""

    state: RunState
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class End(News):
    """The END of a run that never had agents."""

    event: Event


@dataclass(frozen=True, kw_only=True)
class Failed(News):
    """The job can't be watched any more."""

    error: MusterError

    @classmethod
    def of(cls, job: JobHandle, error: Exception) -> Failed:
        """Return the news of an error, also of one that nobody foresaw: whoever watches must not wait for ever."""
        if isinstance(error, MusterError):
            return cls(error=error)
        return cls(error=TargetError(f"run {job.job_id} can't be watched: {type(error).__name__}: {error}"))
