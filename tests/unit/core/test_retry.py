"""Retries: delays grow up to a limit, only transient errors are retried and only for so long, an outage is reported once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from muster.core import retry as retries
from muster.core.retry import Backoff, Outage, retry, retry_async


class Busy(Exception):
    """An error that may pass."""


def failing(times: int, error: Exception | None = None) -> tuple[Callable[[], str], list[int]]:
    """Return work that fails so many times before it succeeds, and the list of its calls."""
    calls: list[int] = []

    def work() -> str:
        calls.append(len(calls))
        if len(calls) <= times:
            raise error or Busy(f"call {len(calls)}")
        return "done"

    return work, calls


def call(is_async: bool, work: Callable[[], str], delay: float = 0.001, **options: object) -> str:
    """Retry the work, in one of the two ways."""
    if not is_async:
        return retry(work, Busy, Backoff(delay), **options)  # type: ignore[arg-type]

    async def awaited() -> str:
        return work()

    return asyncio.run(retry_async(awaited, Busy, Backoff(delay), **options))  # type: ignore[arg-type]


def test_delays_grow_up_to_the_limit_and_start_again() -> None:
    backoff = Backoff(0.5, 3.0, factor=2.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


def test_jitter_is_a_factor_on_the_delay_alone() -> None:
    backoff = Backoff(1.0, 8.0, jitter=(0.5, 1.0))
    for whole in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert whole / 2 <= backoff.next() <= whole


@pytest.mark.parametrize("is_async", [False, True])
def test_work_is_called_until_it_succeeds(is_async: bool) -> None:
    work, calls = failing(3)
    seen: list[str] = []
    assert call(is_async, work, on_retry=lambda error: seen.append(str(error))) == "done"
    assert (len(calls), seen) == (4, ["call 1", "call 2", "call 3"])


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_that_is_not_transient_is_raised_at_once(is_async: bool) -> None:
    work, calls = failing(3, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        call(is_async, work)
    assert len(calls) == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_the_last_error_is_raised_after_so_many_tries(is_async: bool) -> None:
    work, calls = failing(9)
    seen: list[str] = []
    with pytest.raises(Busy, match="call 3"):
        call(is_async, work, tries=3, on_retry=lambda error: seen.append(str(error)))
    assert (len(calls), seen) == (3, ["call 1", "call 2"])


@pytest.mark.parametrize("is_async", [False, True])
def test_no_delay_goes_beyond_the_timeout(is_async: bool) -> None:
    work, calls = failing(1000)
    began = time.monotonic()
    with pytest.raises(Busy):
        call(is_async, work, delay=60.0, timeout=1.0)
    assert time.monotonic() < began + 30.0
    assert len(calls) == 1
    with pytest.raises(Busy):
        call(is_async, work, timeout=1.0)
    assert len(calls) > 2


def test_a_retry_may_be_stopped_by_whoever_hears_of_it() -> None:
    work, calls = failing(3)

    def stop(error: Exception) -> None:
        raise RuntimeError("given up") from error

    with pytest.raises(RuntimeError, match="given up"):
        call(False, work, on_retry=stop)
    assert len(calls) == 1


def test_an_outage_is_reported_once_and_lasts_from_its_first_failure() -> None:
    outage = Outage(report_after=2)
    assert outage.seconds == 0.0
    assert [outage.failed() for _ in range(4)] == [False, True, False, False]
    time.sleep(0.01)
    assert outage.seconds >= 0.01
    assert outage.ended() >= 0.01
    assert outage.seconds == 0.0
    assert outage.ended() == 0.0


def test_a_failure_that_was_not_reported_is_no_outage() -> None:
    outage = Outage(report_after=2)
    assert not outage.failed()
    assert outage.ended() == 0.0
    assert [outage.failed() for _ in range(2)] == [False, True]


def test_its_import_brings_nothing_that_a_start_would_wait_for() -> None:
    code = f"import sys; sys.path.insert(0, {str(retries.__file__).rsplit('/muster/', 1)[0]!r}); import muster.core.retry; "
    code += "print([name for name in ('asyncio', 'random', 'threading') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
