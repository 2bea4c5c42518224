"""Background: the one event loop of this process in which all connections to hosts live, however many callers there are."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """A loop in a thread of its own; what is kept there is made once by ``once`` and shared."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._things: dict[object, Any] = {}
        threading.Thread(target=self.loop.run_forever, daemon=True, name="muster-hosts").start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something there and wait for it; not to be called from the loop itself."""
        task = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return task.result()
        except BaseException:
            task.cancel()
            raise

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something there, awaited from another loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def call(self, action: Callable[..., object], *arguments: Any) -> None:
        """Have something called there soon."""
        self.loop.call_soon_threadsafe(action, *arguments)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Give the thing of a key, made when it is first asked for; only in the loop."""
        if key not in self._things:
            self._things[key] = make()
        thing: T = self._things[key]
        return thing


_of_process: dict[int, Background] = {}
_making = threading.Lock()


def background() -> Background:
    """Give this process's own; one that has forked makes another."""
    with _making:
        if os.getpid() not in _of_process:
            _of_process.clear()
            _of_process[os.getpid()] = Background()
        return _of_process[os.getpid()]
