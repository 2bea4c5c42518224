"""Treats a login failure on a host that worked before as an outage, not as a wrong request."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

from muster.core.errors import MusterError
from muster.targets.hosts.ssh_errors import HostUnreachable, LoginRefused, UnknownHost

T = TypeVar("T")
REFUSAL_TIME = 600.0  # seconds in which a login that worked may be refused: the directory of users is down, or updated


class ReconnectPolicy:
    """The history of one host's logins in this process."""

    def __init__(self) -> None:
        self._worked = False
        self._refused_since = 0.0

    async def login(self, opening: Awaitable[T]) -> T:
        """Await a login.

        :raises HostUnreachable: a login that worked before has failed, and may work again.
        """
        try:
            opened = await opening
        except (UnknownHost, LoginRefused) as error:
            raise self._error(error) from error
        self._worked, self._refused_since = True, 0.0
        return opened

    def _error(self, error: UnknownHost | LoginRefused) -> MusterError:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        lasts = isinstance(error, LoginRefused) and now > self._refused_since + REFUSAL_TIME
        return error if lasts or not self._worked else HostUnreachable(f"{error} (it was right before, and is tried again)")
