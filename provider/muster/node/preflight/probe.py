"""The preflight probe of a node: inspects the node and tries others; part of the agent, or alone before there is one.

Alone it serves a launcher: JSON requests by line on its standard input, replies on its output; its argument is the root.
It ends with its input, and its open ports with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.core.plan import JobPlan, PortRequest
from muster.node.preflight import content_digests, facts
from muster.node.preflight.reachability import Blocked, Endpoint, ProbeListener, try_endpoints
from muster.node.ranks.environment import search_path
from muster.node.rpc import Commands, Handler, Request

IDLE_LIMIT = 330.0  # seconds without a request, as other hosts may take long to unpack, after which the launcher is gone
LONGEST_LINE = 64 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class ListPackages(Request[tuple[str, ...]]):
    """List what is installed beside the ranks' interpreter, to name in what nodes differ."""


@dataclass(frozen=True, kw_only=True)
class OpenPorts(Request[tuple[int, ...]]):
    """Listen where the others are to try this node: on the plan's ports, and with ``spare`` on any other one."""

    address: str
    spare: bool


@dataclass(frozen=True, kw_only=True)
class TryEndpoints(Request[tuple[Blocked, ...]]):
    """Try all other nodes; the answer are those that were not reached."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, kw_only=True)
class FindPorts(Request[dict[str, int]]):
    """Find the node's ports on another address than the mesh's; the answer is by name."""

    address: str


@dataclass(frozen=True, kw_only=True)
class HostReport:
    """The first answer of a probe alone: facts, its clock, and the open port of the mesh, 0 for none."""

    facts: facts.Facts
    clock: float
    mesh_port: int


@dataclass(frozen=True, kw_only=True)
class InspectHost(Request[HostReport]):
    """Inspect a host before it has an agent, and listen on the first of ``mesh_ports`` that is free.

    ``archive``: the packed code, "" for none; it is unpacked for a moment, since only then its disk shows what it makes of it.
    """

    plan: JobPlan
    node: int
    address: str
    interpreter: str
    devices: tuple[str, ...] = ()
    archive: str = ""
    mesh_ports: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NodeProbe:
    """One node; ``work`` is its folder, ``devices`` limits which GPUs count, empty for all of them."""

    plan: JobPlan
    node: int
    address: str
    interpreter: str
    devices: tuple[str, ...]
    work: Path
    listener: ProbeListener = field(default_factory=ProbeListener)

    async def inspect(self, code: Path | None) -> facts.Facts:
        """Return the facts of this node; of its code too, unless that is None."""
        self.listener.close()
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

    @property
    def handlers(self) -> Mapping[type[Request[Any]], Handler]:
        """The commands of preflight."""
        return {
            ListPackages: lambda _: asyncio.to_thread(content_digests.packages, self.interpreter),
            OpenPorts: self._open_ports,
            TryEndpoints: lambda request: asyncio.to_thread(try_endpoints, self.node, request.endpoints),
            FindPorts: self._find_ports,
        }

    def _open_ports(self, request: OpenPorts) -> tuple[int, ...]:
        found = facts.find_ports(request.address, self._port_requests(request.address))
        return self.listener.open(request.address, [*found.values(), *([0] if request.spare else [])])

    def _find_ports(self, request: FindPorts) -> dict[str, int]:
        self.listener.close()
        return facts.find_ports(request.address, self._port_requests(request.address))

    def _port_requests(self, address: str) -> Iterable[PortRequest]:
        return facts.shift_ports(self.plan.nodes[self.node].ports, address, self.node)


# -- alone


def main(arguments: list[str]) -> int:
    """Serve a launcher; the root folder is the argument."""
    with contextlib.suppress(asyncio.TimeoutError, BrokenPipeError):
        asyncio.run(_HostProbe(Path(arguments[0]).expanduser() / "jobs").serve())
    return 0


class _HostProbe:
    """A probe of a host without an agent; knows the node with its first request."""

    def __init__(self, jobs: Path) -> None:
        self._jobs = jobs
        self._commands = Commands({InspectHost: self._inspect})

    async def serve(self) -> None:
        """Answer every line of the standard input."""
        reader = asyncio.StreamReader(limit=LONGEST_LINE)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await asyncio.wait_for(reader.readline(), IDLE_LIMIT):
            sys.stdout.write(json.dumps(await self._commands.answer_async(line)) + "\n")
            sys.stdout.flush()

    async def _inspect(self, request: InspectHost) -> HostReport:
        os.makedirs(self._jobs, exist_ok=True)
        probe = NodeProbe(
            plan=request.plan,
            node=request.node,
            address=request.address,
            interpreter=request.interpreter,
            devices=request.devices,
            work=self._jobs,
        )
        with self._unpacked(request.archive) as code:
            seen = await probe.inspect(code)
        port = next((opened for port in request.mesh_ports for opened in probe.listener.open(seen.address, [port])), 0)
        self._commands = Commands(probe.handlers)
        return HostReport(facts=seen, clock=time.time(), mesh_port=port)

    @contextlib.contextmanager
    def _unpacked(self, archive: str) -> Iterator[Path | None]:
        if not archive:
            yield None
            return
        import tempfile

        from muster.node.host.node_folder import unpack_code

        with tempfile.TemporaryDirectory(prefix=".look-", dir=self._jobs) as folder:
            unpack_code(archive, Path(folder))
            yield Path(folder)
