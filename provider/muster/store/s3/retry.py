"""Patience with a store that is away: back-off, one word when it goes and one when it is back, work that never gives up."""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import TypeVar

from muster.core.errors import StoreError
from muster.store.s3.errors import Away, Changed, Missing, Refused

T = TypeVar("T")
FIRST_PAUSE = 0.5  # seconds; doubled with each failure
LONGEST_PAUSE = 10.0
BLIP = 2  # failures in a row before a person is told


class Backoff:
    """Seconds to wait after each failure in a row."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    def next(self) -> float:
        """Give the next pause, with jitter so that many nodes don't come back at once."""
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE)
        return pause * random.uniform(0.5, 1.0)


class Outage:
    """Whether the store is away; tells once when it goes, and once when it is back."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._failures = 0
        self._since = 0.0
        self._told: set[str] = set()

    def failed(self, error: Exception) -> None:
        """Count a failure of something that will be tried again."""
        if isinstance(error, Changed):
            return
        if not isinstance(error, (Away, Refused)):
            self._tell_once(f"{error}; it is tried again")
            return
        with self._lock:
            self._since = self._since or time.monotonic()
            self._failures += 1
            if self._failures == BLIP:
                self._tell(f"{error}; it is tried again until it works")

    def _tell_once(self, text: str) -> None:
        """Tell of something that is wrong with one object, while the store is there."""
        with self._lock:
            if text not in self._told:
                self._told.add(text)
                self._tell(text)

    def worked(self) -> None:
        """Note that the store did something."""
        with self._lock:
            if self._failures >= BLIP:
                self._tell(f"the store is back after {time.monotonic() - self._since:.0f} s")
            self._failures, self._since = 0, 0.0

    def insist(self, work: Callable[[], T], patience: float) -> T:
        """Do something again and again until it works, for as long as that may help.

        :raises StoreError: it can't work, or did not within ``patience`` seconds.
        """
        give_up = time.monotonic() + patience
        backoff = Backoff()
        while True:
            try:
                result = work()
            except (Away, Refused, Missing) as error:
                self.failed(error)
                pause = backoff.next()
                if time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)
            else:
                self.worked()
                return result


class Routine:
    """Work in a thread of its own, done again every ``interval`` seconds and on demand, with back-off while it fails.

    ``work(final)`` returns when everything is stored, and raises StoreError when it is not; with ``final`` it need not wait
    for files to be quiet. It is never done twice at once.
    """

    def __init__(self, work: Callable[[bool], None], interval: float, outage: Outage) -> None:
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
        """Begin; the thread ends with the process."""
        threading.Thread(target=self._run, daemon=True).start()

    def wake(self) -> None:
        """Have the work done soon."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def demand(self, patience: float, *, then_pause: bool = False) -> None:
        """Have the work done, finally, and wait for it; with ``then_pause`` it isn't done again but on demand.

        :raises StoreError: it was not done within ``patience`` seconds.
        """
        demand: Future[None] = Future()
        with self._changed:
            self._paused = False
            self._pause_when_done = then_pause
            self._demands.append(demand)
            self._changed.notify()
        try:
            demand.result(max(patience, 0.0))
        except TimeoutError:
            with self._changed:
                if demand in self._demands:
                    self._demands.remove(demand)
            raise StoreError(self._last_error or f"the store did not take everything within {patience:g} s") from None

    def _run(self) -> None:
        backoff = Backoff()
        tried: list[Future[None]] = []
        while True:
            with self._changed:
                demands = list(self._demands)
                idle = self._paused and not demands
            if any(demand not in tried for demand in demands):
                backoff = Backoff()
            tried = demands
            if idle or self._once(demands):
                backoff = Backoff()
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
        self._fulfil(demands)
        return True

    def _fulfil(self, demands: list[Future[None]]) -> None:
        with self._changed:
            for demand in demands:
                if demand in self._demands:
                    self._demands.remove(demand)
                demand.set_result(None)
            if demands:
                self._paused = self._pause_when_done

    def _wait(self, seconds: float, seen: list[Future[None]]) -> None:
        """Wait, but not when there is a demand that has not been tried."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or any(d not in seen for d in self._demands), seconds)
            self._woken = False


def bounded(work: Callable[[], T], seconds: float, late: str) -> T:
    """Do something in a thread of its own and wait at most ``seconds`` for it.

    :raises Away: with the text ``late``, if it took longer.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        raise Away(late) from None
