"""The client of a host's log streamer: an outage lasts only as long as something is watched there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from muster.core.errors import MusterError, RequestError
from muster.targets.hosts.log_client import LogClient
from muster.targets.hosts.shell import ConnectionLost

LIMIT = 60.0


class BrokenHost:
    """A connection that can't be made."""

    def __init__(self, *errors: Exception) -> None:
        self.host = self
        self.name = "gpu-a"
        self._errors = list(errors)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        yield

    async def inspect(self) -> None:
        raise self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]


class Listener:
    def __init__(self) -> None:
        self.failed: list[MusterError] = []

    def take(self, lines: bytes, skipped: int) -> bool:
        return True

    def when_room(self, resume: Callable[[], object]) -> None:
        resume()

    def end(self, end: dict[str, Any]) -> None:
        raise AssertionError("nobody has seen its end")

    def fail(self, error: MusterError) -> None:
        self.failed.append(error)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_outage_ends_with_the_last_watch_so_that_the_next_begins_without_it() -> None:
    client = LogClient(cast(Any, BrokenHost(ConnectionLost("cut off"))))
    watch = client.watch("/folder", 0, Listener())
    await until(lambda: client.lost_since)
    watch.stop()
    await until(lambda: client._task is not None and client._task.done())
    assert client.lost_since == 0.0


async def test_an_outage_ends_with_the_error_that_ends_all_watches() -> None:
    client, listener = LogClient(cast(Any, BrokenHost(ConnectionLost("cut off"), RequestError("no key")))), Listener()
    client.watch("/folder", 0, listener)
    await until(lambda: listener.failed)
    assert [str(error) for error in listener.failed] == ["no key"]
    assert client.lost_since == 0.0
