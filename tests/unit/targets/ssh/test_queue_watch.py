"""The waiting room asks the queue as long as somebody waits, and no longer."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from muster.core.attempt import AttemptId
from muster.node.host.gang_scheduler import QueueEntry
from muster.targets.ssh.queue_client import QueueClient
from muster.targets.ssh.queue_watch import QueueWatcher


class EmptyQueue:
    """A claim place whose queue is empty."""

    def __init__(self) -> None:
        self.turns = 0

    async def advance(self, waiting: list[AttemptId], ended: list[AttemptId]) -> tuple[list[QueueEntry], float]:
        """Count the question."""
        self.turns += 1
        return [], time.time()


class Listener:
    """Hears how the queue stands, by a method, as followers do."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def receive(self, entry: Any, entries: list[QueueEntry]) -> None:
        """Note it."""
        self.heard.append(entry)


def test_it_rests_once_all_have_left() -> None:
    async def enter_and_leave() -> None:
        room = QueueWatcher(cast(QueueClient, queue), cast(Any, None))
        room.subscribe(key, first.receive)
        room.subscribe(key, second.receive)
        while not second.heard:
            await asyncio.sleep(0)
        room.unsubscribe(key, first.receive)
        assert room._waiting == {key: [second.receive]}
        room.unsubscribe(key, second.receive)
        room.wake()
        assert room._task is not None
        await asyncio.wait_for(room._task, 60.0)

    queue, first, second, key = EmptyQueue(), Listener(), Listener(), ("job", 1, 1)
    asyncio.run(enter_and_leave())
    assert queue.turns == 1
    assert first.heard == second.heard == [None]
