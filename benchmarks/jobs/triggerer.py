"""Runs many triggers in one event loop, as Airflow's triggerer does, and says what that cost: triggerer.py PLAN.json.

The plan: ``{"trigger": class path, "arguments": [{…}, …], "port": of the SSH server, "limit": seconds, "ready": file, "out":
file}``. Writes as JSON: ``delays`` (ms by which the loop was late, one for every 10 ms), ``fired`` (time and payload of each
trigger, in order; None of one that broke, or had not fired by the limit),
``memory`` (MB that all of it took) and ``connections`` (the most that were open to the server at a time).
"""

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PERIOD = 0.01
ESTABLISHED = "01"


def resident() -> float:
    """Return this process's resident memory in MB (10**6 bytes)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def connections(port: int) -> int:
    """Count this process's open connections to a server of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    there = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}") and row[3] == ESTABLISHED}
    return sum(os.readlink(f"/proc/self/fd/{fd}") in there for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


class Watch:
    """Looks at the loop and at the connections while triggers run."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.delays: list[float] = []
        self.memory = resident()
        self.most_memory = self.memory
        self.connections = 0

    async def look(self) -> None:
        """Note by how much each turn was late."""
        turns = 0
        while True:
            due = asyncio.get_running_loop().time() + PERIOD
            await asyncio.sleep(PERIOD)
            self.delays.append((asyncio.get_running_loop().time() - due) * 1000)
            turns += 1
            if turns % 100 == 0:
                self.most_memory = max(self.most_memory, resident())
                self.connections = max(self.connections, connections(self._port))


async def fire(trigger: Any) -> tuple[float, Any]:
    """Return when a trigger fired, and with what."""
    try:
        async for event in trigger.run():
            return time.time(), event.payload
    except Exception as error:
        print(f"a trigger broke: {error!r}", file=sys.stderr)
    return time.time(), None


async def follow(plan: dict[str, Any], ready: Callable[[], None]) -> dict[str, Any]:
    """Run all triggers until the last has fired."""
    module, _, name = plan["trigger"].rpartition(".")
    triggers = [getattr(importlib.import_module(module), name)(**arguments) for arguments in plan["arguments"]]
    watch = Watch(plan["port"])
    looking = asyncio.ensure_future(watch.look())
    running = [asyncio.ensure_future(fire(trigger)) for trigger in triggers]
    ready()
    await asyncio.wait(running, timeout=plan["limit"])
    fired = [trigger.result() if trigger.done() else (time.time(), None) for trigger in running]
    looking.cancel()
    memory = watch.most_memory - watch.memory
    return {"delays": watch.delays, "fired": fired, "memory": memory, "connections": watch.connections}


def main() -> None:
    """Follow, and write down what it cost."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    seen = asyncio.run(follow(plan, Path(plan["ready"]).touch))
    Path(plan["out"]).write_text(json.dumps(seen, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
