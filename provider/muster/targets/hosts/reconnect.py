"""Re-entry: a host that has let us in before and now has no name, or refuses us, is away, which is no wrong request."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

from muster.core.errors import MusterError
from muster.targets.hosts.ssh_errors import LoginRefused, UnknownHost, Unreachable

T = TypeVar("T")
PATIENCE = 600.0  # seconds in which a login that was good may be refused: a directory of users that is away, an update


class ReconnectPolicy:
    """What is remembered of one host's logins, as long as this process lives."""

    def __init__(self) -> None:
        self._was_in = False
        self._refused_since = 0.0

    async def through(self, opening: Awaitable[T]) -> T:
        """Await a login.

        :raises Unreachable: what is wrong was right before, and may be again.
        """
        try:
            opened = await opening
        except (UnknownHost, LoginRefused) as error:
            raise self._meaning(error) from error
        self._was_in, self._refused_since = True, 0.0
        return opened

    def _meaning(self, error: UnknownHost | LoginRefused) -> MusterError:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        lasts = isinstance(error, LoginRefused) and now > self._refused_since + PATIENCE
        return error if lasts or not self._was_in else Unreachable(f"{error} (it was right before, and is tried again)")
