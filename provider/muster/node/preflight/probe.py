"""The probe: what a node tells of itself and tries with others in preflight; part of its agent, or alone before there is one.

Alone it answers whoever launches, JSON lines on its standard input by JSON lines on its output; its argument is the root. It
ends with its input, and its doors with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.core.codec import from_data, to_data
from muster.core.plan import JobPlan, PortWish
from muster.node.preflight import content_digests, facts
from muster.node.preflight.reachability import Endpoint, ProbeListener, tried
from muster.node.ranks.environment import search_path

PATIENCE = 330.0  # seconds without a question, others may take long to unpack, after which whoever launches is gone
LONGEST_LINE = 64 << 20  # bytes


def main(arguments: list[str]) -> int:
    """NodeProbe for whoever launches; the root folder is the argument."""
    with contextlib.suppress(asyncio.TimeoutError, BrokenPipeError):
        asyncio.run(_serve(Path(arguments[0]).expanduser() / "jobs"))
    return 0


@dataclass(frozen=True, kw_only=True)
class NodeProbe:
    """One node; ``work`` is its folder, ``devices`` limits which GPUs count, empty for all of them."""

    plan: JobPlan
    node: int
    address: str
    interpreter: str
    devices: tuple[str, ...]
    work: Path
    doors: ProbeListener = field(default_factory=ProbeListener)

    async def look(self, code: Path | None) -> facts.Facts:
        """Look at this node; at its code too, unless that is None."""
        self.doors.close()
        return await asyncio.to_thread(  # nvidia-smi can take many seconds, in which the mesh must be kept alive
            facts.gather,
            node=self.node,
            address=self.address,
            plan=self.plan,
            work=self.work,
            interpreter=self.interpreter,
            devices=self.devices,
            path=search_path(self.plan, self.interpreter),
            code=code,
        )

    async def do_packages(self) -> list[str]:
        """Give what is installed beside the ranks' interpreter, for saying in what nodes differ."""
        return list(await asyncio.to_thread(content_digests.packages, self.interpreter))

    async def do_open_doors(self, address: str, spare: bool) -> list[int]:
        """Listen where the others are to try this node: on its wished ports, and with ``spare`` on any other one."""
        wished = facts.find_ports(address, self._wishes(address))
        return list(self.doors.open(address, [*wished.values(), *([0] if spare else [])]))

    async def do_try_doors(self, doors: list[tuple[int, str, list[int]]]) -> list[dict[str, Any]]:
        """Try all other nodes; gives those that were not reached."""
        others = [Endpoint(node=node, address=address, ports=tuple(ports)) for node, address, ports in doors]
        return [to_data(blocked) for blocked in await asyncio.to_thread(tried, self.node, others)]

    async def do_ports(self, address: str) -> dict[str, int]:
        """Find the node's ports on another address than the mesh's."""
        self.doors.close()
        return facts.find_ports(address, self._wishes(address))

    def _wishes(self, address: str) -> Iterable[PortWish]:
        return facts.shifted(self.plan.nodes[self.node].ports, address, self.node)


# -- alone


async def _serve(jobs: Path) -> None:
    """Look at the node that the first line tells of, then do as the others say."""
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    probe: NodeProbe | None = None
    while line := await asyncio.wait_for(reader.readline(), PATIENCE):
        request: dict[str, Any] = json.loads(line)
        do = request.pop("do")
        if probe is None:
            probe, answer = await _first_look(jobs, **request)
        else:
            answer = await getattr(probe, f"do_{do}")(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


async def _first_look(
    jobs: Path,
    *,
    plan: dict[str, Any],
    node: int,
    address: str,
    interpreter: str,
    devices: list[str],
    archive: str,
    mesh: list[int],
) -> tuple[NodeProbe, dict[str, Any]]:
    """Give the probe of a node and what it sees, its clock, and its door of the mesh: on the first of ``mesh`` that is free.

    ``archive``: the packed code, "" for none; it is unpacked for a moment, as only then its disk has said what it makes of it.
    """
    os.makedirs(jobs, exist_ok=True)
    wanted = from_data(JobPlan, plan)
    probe = NodeProbe(plan=wanted, node=node, address=address, interpreter=interpreter, devices=tuple(devices), work=jobs)
    with _unpacked(archive, jobs) as code:
        seen = await probe.look(code)
    door = next((port for wish in mesh for port in probe.doors.open(seen.address, [wish])), 0)
    return probe, {"facts": to_data(seen), "door": door, "clock": time.time()}


@contextlib.contextmanager
def _unpacked(archive: str, jobs: Path) -> Iterator[Path | None]:
    if not archive:
        yield None
        return
    import tempfile

    from muster.node.host.node_folder import unpack

    with tempfile.TemporaryDirectory(prefix=".look-", dir=jobs) as folder:
        unpack(archive, Path(folder))
        yield Path(folder)
