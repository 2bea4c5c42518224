"""Outage: an engine that does not answer is waited for, for so long, and said once to be away and once to be back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import unreachable

if TYPE_CHECKING:
    from docker import APIClient

PAUSE = 0.05
SLOWEST = 3.0  # seconds between two tries to reach an engine that is away
PATIENCE = 600.0  # seconds for an engine to come back


class Outage:
    """What is known of one engine by one who asks it again and again; ``tell`` is given what people should know of that."""

    def __init__(self, engine: Engine, tell: Callable[[str], None]) -> None:
        self._engine = engine
        self._tell = tell
        self._since = 0.0

    def goes_on(self, error: Exception, client: APIClient | None) -> float:
        """Take in a try that failed, with the client it was made with; gives how many seconds to wait until the next.

        :raises Unreachable: the engine has been away for too long.
        """
        now = time.monotonic()
        if client is not None:
            self._engine.forget(client)
        if not self._since:
            self._since = now
            self._tell(f"the docker engine at {self._engine.url} does not answer; waiting for it")
        if now > self._since + PATIENCE:
            raise unreachable(f"no answer for {PATIENCE:g} s, the last try: {error}", self._engine.url)
        return min(SLOWEST, max(PAUSE, (now - self._since) / 4))

    def over(self) -> None:
        """Take in that the engine answers."""
        if self._since:
            self._since = 0.0
            self._tell(f"the docker engine at {self._engine.url} answers again")
