"""Retries of store requests: which errors are transient, the delays between tries, and outages reported once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import TypeVar

from muster.core import retry
from muster.core.retry import Backoff
from muster.store.s3.errors import AccessDenied, FileChanged, NotFound, StoreUnavailable

T = TypeVar("T")
TRANSIENT = (StoreUnavailable, AccessDenied, NotFound)  # credentials may be renewed, and what is missing may be on its way
FIRST_DELAY = 0.5  # seconds
LONGEST_DELAY = 10.0
REPORT_AFTER = 2  # failures in a row


def store_backoff() -> Backoff:
    """Return the delays between tries of a store request."""
    return Backoff(FIRST_DELAY, LONGEST_DELAY, jitter=(0.5, 1.0))


class StoreOutage:
    """The state of one store, from the failures and successes of all requests; ``report(text)`` is called at each change."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._outage = retry.Outage(report_after=REPORT_AFTER)
        self._reported: set[str] = set()

    def failed(self, error: Exception) -> None:
        """Count a failure of a request that is retried."""
        if isinstance(error, FileChanged):
            return
        with self._lock:
            if not isinstance(error, (StoreUnavailable, AccessDenied)):
                self._report_once(f"{error}; it is tried again")  # one object is wrong, the store answers
            elif self._outage.failed():
                self._report(f"{error}; it is tried again until it works")

    def _report_once(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._report(text)

    def worked(self) -> None:
        """Count a request that succeeded."""
        with self._lock:
            lasted = self._outage.ended()
            if lasted:
                self._report(f"the store is back after {lasted:.0f} s")

    def retry(self, work: Callable[[], T], timeout: float) -> T:
        """Call ``work`` until it succeeds or ``timeout`` seconds have passed; return its result.

        :raises StoreError: the last error; one that is not transient at once.
        """
        result = retry.retry(work, TRANSIENT, store_backoff(), timeout=timeout, on_retry=self.failed)
        self.worked()
        return result


def call_within(work: Callable[[], T], timeout: float, message: str) -> T:
    """Call ``work`` in a thread and return its result.

    :raises StoreUnavailable: with the text ``message``, if it takes longer than ``timeout`` seconds; the thread goes on.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(timeout)
    except TimeoutError:
        raise StoreUnavailable(message) from None
