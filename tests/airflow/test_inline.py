"""Waiting in the worker: what interrupts the main thread interrupts the waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from airflow.triggers.base import TriggerEvent

from muster.operators.inline import first_event


async def firing() -> AsyncIterator[TriggerEvent]:
    await asyncio.sleep(0)
    yield TriggerEvent("first")
    yield TriggerEvent("second")


async def failing() -> AsyncIterator[TriggerEvent]:
    raise ValueError("no such job")
    yield


def test_the_first_event_is_given_and_errors_are_raised() -> None:
    assert first_event(firing()) == "first"
    with pytest.raises(ValueError, match="no such job"):
        first_event(failing())


def test_airflows_timeout_ends_the_waiting() -> None:
    left = threading.Event()

    async def endless() -> AsyncIterator[TriggerEvent]:
        try:
            await asyncio.Event().wait()
            yield TriggerEvent(None)
        finally:
            left.set()

    with pytest.raises(AirflowTaskTimeout), timeout(0.2):
        first_event(endless())
    assert left.wait(60)


def test_a_signal_handler_runs_while_waiting_and_the_waiting_goes_on() -> None:
    told = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: told.set())
    try:

        async def waits_for_the_handler() -> AsyncIterator[TriggerEvent]:
            os.kill(os.getpid(), signal.SIGUSR1)
            while not told.is_set():
                await asyncio.sleep(0.01)
            yield TriggerEvent("on we go")

        assert first_event(waits_for_the_handler()) == "on we go"
    finally:
        signal.signal(signal.SIGUSR1, before)
