"""Waits for an engine that does not answer: reports once that it is unreachable and once that it is back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from muster.core.retry import Outage
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import unreachable

if TYPE_CHECKING:
    from docker import APIClient

POLL_INTERVAL = 0.05
SLOWEST = 3.0  # seconds between two tries to reach an engine


class EngineOutage:
    """The failures in a row of one engine, seen by one caller; ``report`` takes what people should know of them.

    The engine is waited for ``timeout`` seconds.
    """

    def __init__(self, engine: Engine, report: Callable[[str], None], timeout: float) -> None:
        self._engine = engine
        self._report = report
        self._timeout = timeout
        self._outage = Outage()

    def failed(self, error: Exception, client: APIClient | None) -> float:
        """Count a try that failed, with the client it was made with; return how many seconds to wait until the next.

        :raises EngineUnreachable: the engine has been unreachable for too long.
        """
        if client is not None:
            self._engine.discard(client)
        if self._outage.failed():
            self._report(f"the docker engine at {self._engine.url} does not answer; waiting for it")
        if self._outage.seconds > self._timeout:
            raise unreachable(f"no answer for {self._timeout:g} s, the last try: {error}", self._engine.url)
        return min(SLOWEST, max(POLL_INTERVAL, self._outage.seconds / 4))

    def ended(self) -> None:
        """Count an answer."""
        if self._outage.ended():
            self._report(f"the docker engine at {self._engine.url} answers again")
