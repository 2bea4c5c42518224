"""Wishes: why somebody outside wants the run to end, left as a file in the node folder for the agent that gets a SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from muster.core.codec import canonical
from muster.core.verdict import Cause, Verdict
from muster.node.private_files import replace_file

PAUSE = 0.05


@dataclass(frozen=True, kw_only=True)
class CancelRequest:
    """Why a run is to end."""

    cause: Cause
    reason: str

    def write(self, file: Path) -> None:
        """Replace the file that agents read when they get a SIGTERM."""
        replace_file(file, canonical(self))


def read(file: Path) -> Verdict | None:
    """Give the wish as a verdict, None if there is none."""
    try:
        wish = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Verdict(cause=Cause(wish["cause"]), detail=wish["reason"])


async def explained(verdict: Verdict | None, file: Path, patience: float) -> Verdict | None:
    """Give the reason for a verdict that may only be the trace of a batch engine's SIGTERM, which ranks get as well.

    The engine is asked beside us; ``patience`` in seconds is how long that can take, 0 where nobody asks.
    """
    if verdict is None or not patience or not _may_be_the_engines(verdict):
        return verdict
    give_up = time.monotonic() + patience
    while (wish := read(file)) is None and time.monotonic() < give_up:
        await asyncio.sleep(PAUSE)
    return wish or verdict


def _may_be_the_engines(verdict: Verdict) -> bool:
    ended = verdict.signal == signal.SIGTERM or verdict.exit_code == 128 + signal.SIGTERM
    return verdict.cause is Cause.NODE or (verdict.cause in (Cause.RANK, Cause.SPAWNER) and ended)
