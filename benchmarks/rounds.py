"""Rounds: contenders that take turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turn(contenders: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """Let each do it once unmeasured, then in turn A B C A B C …; gives what each one measured."""
    for contender in contenders:
        contender()
    return list(map(list, zip(*([contender() for contender in contenders] for _ in range(rounds)), strict=True)))


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a contender whose result is the seconds that the work took."""

    def seconds() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return seconds
