"""Retries: growing delays, calls repeated while their errors are transient, and outages that are reported once."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
Errors = type[Exception] | tuple[type[Exception], ...]


class Backoff:
    """Delays between tries: ``initial`` seconds, each ``factor`` times the one before, at most ``limit``.

    ``jitter`` is the range of a random factor on each delay, so that many nodes do not retry at the same moment.
    """

    def __init__(
        self, initial: float, limit: float = math.inf, *, factor: float = 2.0, jitter: tuple[float, float] | None = None
    ) -> None:
        self._initial = self._delay = initial
        self._limit = limit
        self._factor = factor
        self._jitter = jitter

    def next(self) -> float:
        """Return the seconds to wait before the next try."""
        delay, self._delay = self._delay, min(self._delay * self._factor, self._limit)
        if self._jitter is None:
            return delay
        import random  # milliseconds that most processes of a node need not pay

        return delay * random.uniform(*self._jitter)

    def reset(self) -> None:
        """Start again with the initial delay."""
        self._delay = self._initial


class Outage:
    """Failures in a row of one service that is expected to come back.

    ``report_after`` is the number of failures in a row from which an outage is reported.
    """

    def __init__(self, report_after: int = 1) -> None:
        self._report_after = report_after
        self._failures = 0
        self._since = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the first failure; 0 while the service answers."""
        return time.monotonic() - self._since if self._failures else 0.0

    def failed(self) -> bool:
        """Count a failure; return whether the outage is to be reported now."""
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        return self._failures == self._report_after

    def ended(self) -> float:
        """Count a success; return the seconds that a reported outage lasted, 0 if none was reported."""
        lasted = self.seconds if self._failures >= self._report_after else 0.0
        self._failures = 0
        return lasted


def retry(
    work: Callable[[], T],
    transient: Errors,
    backoff: Backoff,
    *,
    timeout: float = math.inf,
    tries: float = math.inf,
    on_retry: Callable[[Exception], None] | None = None,
) -> T:
    """Call ``work`` until it succeeds; return its result.

    Only ``transient`` errors are retried, for at most ``timeout`` seconds and ``tries`` calls; ``on_retry(error)`` is called
    before each delay, and may raise to stop.

    :raises Exception: the error of the last call.
    """
    limits = _Limits(backoff, timeout, tries, on_retry)
    while True:
        try:
            return work()
        except transient as error:
            delay = limits.delay_after(error)
        time.sleep(delay)


async def retry_async(
    work: Callable[[], Awaitable[T]],
    transient: Errors,
    backoff: Backoff,
    *,
    timeout: float = math.inf,
    tries: float = math.inf,
    on_retry: Callable[[Exception], None] | None = None,
) -> T:
    """Await ``work()`` until it succeeds; see :func:`retry`."""
    import asyncio  # only where there is a loop already: the import is no part of any start

    limits = _Limits(backoff, timeout, tries, on_retry)
    while True:
        try:
            return await work()
        except transient as error:
            delay = limits.delay_after(error)
        await asyncio.sleep(delay)


class _Limits:
    """Decides after each transient error whether there is time and reason for another try."""

    def __init__(self, backoff: Backoff, timeout: float, tries: float, on_retry: Callable[[Exception], None] | None) -> None:
        self._backoff = backoff
        self._deadline = time.monotonic() + timeout
        self._left = tries
        self._on_retry = on_retry

    def delay_after(self, error: Exception) -> float:
        """Return the seconds to wait before the next try.

        :raises Exception: ``error``, if there is no next try.
        """
        self._left -= 1
        delay = self._backoff.next()
        if self._left <= 0 or time.monotonic() + delay > self._deadline:
            raise error
        if self._on_retry is not None:
            self._on_retry(error)
        return delay
