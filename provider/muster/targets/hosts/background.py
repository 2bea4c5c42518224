"""The one event loop of this process, in a thread of its own, in which all connections to hosts live."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """An event loop in a thread; objects that live in the loop are made once by ``once`` and shared."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._objects: dict[object, Any] = {}
        threading.Thread(target=self.loop.run_forever, daemon=True, name="muster-hosts").start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the loop and wait for the result; must not be called from the loop itself."""
        task = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return task.result()
        except BaseException:
            task.cancel()
            raise

    async def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the loop, awaited from another loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def call(self, action: Callable[..., object], *arguments: Any) -> None:
        """Call ``action`` in the loop soon."""
        self.loop.call_soon_threadsafe(action, *arguments)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return the object of a key, made at the first call; must be called in the loop."""
        if key not in self._objects:
            self._objects[key] = make()
        made: T = self._objects[key]
        return made


_of_process: dict[int, Background] = {}
_making = threading.Lock()


def background() -> Background:
    """Return this process's background loop; a forked process makes its own."""
    with _making:
        if os.getpid() not in _of_process:
            _of_process.clear()
            _of_process[os.getpid()] = Background()
        return _of_process[os.getpid()]


def in_background(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return a function that runs ``work`` in the background loop and waits for the result."""

    @wraps(work)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        return background().run(work(*arguments, **named))

    return run
