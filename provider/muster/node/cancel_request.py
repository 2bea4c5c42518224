"""Cancel requests: the reason why a run is to end, a file in the node folder for the agent that gets a SIGTERM."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from muster.core.codec import canonical
from muster.core.verdict import Cause, Verdict
from muster.node.private_files import replace_file

POLL_INTERVAL = 0.05  # seconds


@dataclass(frozen=True, kw_only=True)
class CancelRequest:
    """Cause and reason of a requested end."""

    cause: Cause
    reason: str

    def write(self, file: Path) -> None:
        """Replace the file that agents read when they get a SIGTERM."""
        replace_file(file, canonical(self))


def read_request(file: Path) -> Verdict | None:
    """Return the request as a verdict, None if there is none."""
    try:
        request = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Verdict(cause=Cause(request["cause"]), detail=request["reason"])


async def explain_verdict(verdict: Verdict | None, file: Path, timeout: float) -> Verdict | None:
    """Return the reason for a verdict that a batch engine's SIGTERM may have caused, which ranks get as well.

    Another process asks the engine; ``timeout`` in seconds is how long that can take, 0 where nobody asks.
    """
    if verdict is None or not timeout or not _may_be_the_engines(verdict):
        return verdict
    import asyncio  # the most expensive import of a host's commands, which wait for nothing

    deadline = time.monotonic() + timeout
    while (request := read_request(file)) is None and time.monotonic() < deadline:
        await asyncio.sleep(POLL_INTERVAL)
    return request or verdict


def _may_be_the_engines(verdict: Verdict) -> bool:
    ended = verdict.signal == signal.SIGTERM or verdict.exit_code == 128 + signal.SIGTERM
    return verdict.cause is Cause.NODE or (verdict.cause in (Cause.RANK, Cause.SPAWNER) and ended)
