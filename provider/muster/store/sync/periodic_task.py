"""Periodic work of the sync process: repeated in a thread, on demand at once, with back-off while it fails."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError

from muster.core.errors import StoreError
from muster.store.s3.retry import StoreOutage, store_backoff


class PeriodicTask:
    """Work that a thread of its own runs every ``interval`` seconds and on demand, one run at a time.

    ``work(final)`` returns when everything is stored, and raises StoreError when it is not; with ``final`` it need not wait
    for files to be quiet.
    """

    def __init__(self, work: Callable[[bool], None], interval: float, outage: StoreOutage) -> None:
        self._work = work
        self._interval = interval
        self._outage = outage
        self._changed = threading.Condition()
        self._demands: list[Future[None]] = []
        self._last_error = ""
        self._paused = False
        self._pause_when_done = False
        self._woken = False

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def wake(self) -> None:
        """Run the work soon."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def demand(self, timeout: float, *, then_pause: bool = False) -> None:
        """Run the work a final time and wait for it; with ``then_pause`` it is not run again but on demand.

        :raises StoreError: it did not succeed within ``timeout`` seconds.
        """
        demand: Future[None] = Future()
        with self._changed:
            self._paused = False
            self._pause_when_done = then_pause
            self._demands.append(demand)
            self._changed.notify()
        try:
            demand.result(max(timeout, 0.0))
        except TimeoutError:
            with self._changed:
                if demand in self._demands:
                    self._demands.remove(demand)
            raise StoreError(self._last_error or f"the store did not take everything within {timeout:g} s") from None

    def _run(self) -> None:
        backoff = store_backoff()
        tried: list[Future[None]] = []
        while True:
            with self._changed:
                demands = list(self._demands)
                idle = self._paused and not demands
            if any(demand not in tried for demand in demands):
                backoff = store_backoff()
            tried = demands
            if idle or self._once(demands):
                backoff = store_backoff()
                self._wait(self._interval, demands)
            else:
                self._wait(backoff.next(), demands)

    def _once(self, demands: list[Future[None]]) -> bool:
        try:
            self._work(bool(demands))
        except StoreError as error:
            self._last_error = str(error)
            self._outage.failed(error)
            return False
        except Exception as error:
            traceback.print_exc()
            self._last_error = f"sync failed unexpectedly: {type(error).__name__}: {error}"
            return False
        self._outage.worked()
        self._complete(demands)
        return True

    def _complete(self, demands: list[Future[None]]) -> None:
        with self._changed:
            for demand in demands:
                if demand in self._demands:
                    self._demands.remove(demand)
                demand.set_result(None)
            if demands:
                self._paused = self._pause_when_done

    def _wait(self, seconds: float, seen: list[Future[None]]) -> None:
        """Wait until the next run is due: at once if there is a demand that has not been tried."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or any(d not in seen for d in self._demands), seconds)
            self._woken = False
