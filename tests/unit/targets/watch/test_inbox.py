"""The inbox is bounded by bytes, for threads and for loops, and loses nothing."""

from __future__ import annotations

import asyncio
import threading

from muster.core.handle import JobHandle
from muster.targets.watch.inbox import Inbox
from muster.targets.watch.news import OVERHEAD, Lines

JOB = JobHandle(target="local", job_id="job", generation=1, attempt=1, plan_digest="", store="s3://none")
LIMIT = 60.0


def lines(number: int) -> Lines:
    return Lines(node=0, data=b"%d\n" % number)


async def test_a_thread_waits_for_a_slow_reader_and_nothing_is_lost() -> None:
    inbox, most = Inbox(10 * OVERHEAD), 0

    def write() -> None:
        for number in range(200):
            if not inbox.put(JOB, lines(number)):
                inbox.wait_for_room()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for number in range(200):
        taken = await inbox.take(LIMIT)
        assert taken == (JOB, lines(number))
        most = max(most, len(inbox._news))
        await asyncio.sleep(0.0002)
    await asyncio.to_thread(writer.join, LIMIT)
    assert most <= 10
    assert await inbox.take(0.01) is None


async def test_a_loop_is_called_back_once_there_is_room() -> None:
    inbox, called = Inbox(4 * OVERHEAD), asyncio.Event()
    room = [inbox.put(JOB, lines(number)) for number in range(4)]
    assert room == [True, True, True, False]
    inbox.when_room(called.set)
    assert not called.is_set()
    for _ in range(3):
        await inbox.take(LIMIT)
    assert called.is_set()


async def test_whoever_waits_goes_on_when_it_is_closed() -> None:
    inbox = Inbox(OVERHEAD)
    assert not inbox.put(JOB, lines(0))
    waiting = threading.Thread(target=inbox.wait_for_room, daemon=True)
    waiting.start()
    inbox.close()
    await asyncio.to_thread(waiting.join, LIMIT)
    assert not waiting.is_alive()
    assert inbox.put(JOB, lines(1))
    assert await inbox.take(0.01) is None
