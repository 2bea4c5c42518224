"""The limits within which jobs are watched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WatchTiming:
    """Limits of a watch, in seconds; part of the timing of each target."""

    end_grace: float = 60.0  # that nodes have to end once the run's END event is there
    tick: float = 1.0  # between two checks whether a job is over though nothing is reported
    inbox_size: int = 4 << 20  # bytes of news that may wait for whoever watches; feeds with more have to wait
    restarts: int = 3  # of one lost node; a node that is lost more often would only keep the others busy
