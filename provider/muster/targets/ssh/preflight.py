"""Preflight of a launch's hosts by probes, before any agent starts, so that a spare can replace a host that does not fit."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from muster.core.errors import MusterError, RequestError
from muster.core.plan import JobPlan
from muster.node import mesh
from muster.node.host.gang_scheduler import QueueEntry
from muster.node.preflight.facts import Facts
from muster.node.preflight.preflight import Preflight, PreflightFailed
from muster.node.preflight.probe import InspectHost
from muster.node.preflight.reachability import Endpoint
from muster.node.rpc import CommandFailed, Request
from muster.targets.hosts import host_files
from muster.targets.hosts.shell import CommandResult, CommandTimeout, ConnectionLost, Stream
from muster.targets.hosts.ssh_errors import BadHosts, gather_hosts
from muster.targets.ssh.launch_bundle import PreparedHost

INSPECT_TIME = 300.0  # seconds to collect a host's facts, with the code to unpack
ANSWER_TIME = 60.0
END_TIME = 5.0  # seconds for a probe to leave
READ = 1 << 18

A = TypeVar("A")


async def inspect(entry: QueueEntry, ready: Sequence[PreparedHost], plan: JobPlan) -> None:
    """Start a probe on every host, and run preflight on the probes as on agents.

    :raises BadHosts: hosts that don't fit, or are unreachable.
    """
    hosts = [allocation.host for allocation in entry.allocations]
    async with _probes(hosts, ready) as probes:
        endpoint = await probes.inspect(entry, plan)
        try:
            await Preflight(plan=plan, nodes=probes, submitter=probes.submitter, note=_ignore, endpoints=(endpoint,)).run()
        except PreflightFailed as refused:
            violations = {hosts[violation.node]: violation.reason for violation in refused.verdict.violations}
            raise BadHosts({h: RequestError(f"host {h} does not fit: {why}") for h, why in violations.items()}) from None


def _ignore(level: str, text: str) -> None:
    """Ignore what is odd but no violation; the agents report it."""


@contextlib.asynccontextmanager
async def _probes(hosts: Sequence[str], ready: Sequence[PreparedHost]) -> AsyncIterator[NodeProbes]:
    async with contextlib.AsyncExitStack() as rooms:
        for connection in sorted({host.connection for host in ready}, key=id):
            await rooms.enter_async_context(connection.room())
        probes = NodeProbes(hosts, ready)
        try:
            await probes.start()
            yield probes
        finally:
            await probes.end()


class NodeProbes:
    """A probe on each host, asked as a gang of agents is: :class:`muster.node.preflight.preflight.Nodes`."""

    def __init__(self, hosts: Sequence[str], ready: Sequence[PreparedHost]) -> None:
        self._hosts = hosts
        self._ready = ready
        self._streams: dict[int, Stream] = {}
        self._ahead: dict[int, float] = {}  # seconds of each clock before ours
        self.facts: dict[int, Facts] = {}

    async def start(self) -> None:
        """Start the probes on all hosts."""

        async def start(node: int) -> None:
            self._streams[node] = await self._ready[node].connection.talk("probe")

        await gather_hosts(self._hosts, [start(node) for node in range(len(self._hosts))])

    async def inspect(self, entry: QueueEntry, plan: JobPlan) -> Endpoint:
        """Collect the facts of all hosts; return the endpoint that the mesh would have."""
        marker = entry.id.marker

        async def inspect(node: int, host: PreparedHost) -> int:
            request = InspectHost(
                plan=plan,
                node=node,
                address=host.address,
                interpreter=host.interpreter,
                devices=tuple(entry.allocations[node].gpus),
                archive=host.archive,
                mesh_ports=() if node else tuple(mesh.ports_of(marker)),
            )
            report = await self._ask(node, request, INSPECT_TIME)
            self._ahead[node] = report.clock - time.time()
            self.facts[node] = report.facts
            return report.mesh_port

        ports = await gather_hosts(self._hosts, [inspect(node, host) for node, host in enumerate(self._ready)])
        return Endpoint(node=0, address=self.facts[0].address, ports=(ports[0],) if ports[0] else ())

    # -- what a gang can do

    @property
    def submitter(self) -> float:
        """Return by how many seconds our clock is ahead of node 0's."""
        return -self._ahead[0]

    def clocks(self) -> dict[int, float]:
        """Return by how many seconds each node's clock is ahead of node 0's."""
        return {node: ahead - self._ahead[0] for node, ahead in self._ahead.items()}

    async def ask(self, node: int, request: Request[A]) -> A:
        """Return the answer of one host."""
        return (await gather_hosts([self._hosts[node]], [self._ask(node, request, ANSWER_TIME)]))[0]

    async def ask_all(self, request: Request[A]) -> dict[int, A]:
        """Return the answers of all hosts."""
        asked = [self._ask(node, request, ANSWER_TIME) for node in range(len(self._hosts))]
        return dict(enumerate(await gather_hosts(self._hosts, asked)))

    async def _ask(self, node: int, request: Request[A], limit: float) -> A:
        try:
            return await asyncio.wait_for(self._exchange(node, request), limit)
        except TimeoutError:
            raise CommandTimeout(f"host {self._hosts[node]} did not answer within {limit:g} s ({request.command})") from None

    async def _exchange(self, node: int, request: Request[A]) -> A:
        stream, reply = self._streams[node], b""
        with contextlib.suppress(ConnectionLost):  # its end says why it would not read on
            await stream.write(json.dumps(request.encode()).encode() + b"\n")
        while not reply.endswith(b"\n"):
            data = await stream.read(READ)
            if not data:
                raise self._refusal(await stream.wait(), node, request)
            reply += data
        try:
            return request.decode_reply(json.loads(reply))
        except CommandFailed as error:
            raise self._refusal(CommandResult(code=1, out=b"", err=str(error).encode()), node, request) from None

    def _refusal(self, result: CommandResult, node: int, request: Request[Any]) -> MusterError:
        what = f"looking at it ({request.command})"
        return host_files.refusal(result, self._hosts[node], what, self._ready[node].info.python)

    # -- their end

    async def end(self) -> None:
        """End all probes and wait until they have left: agents need their ports."""
        await asyncio.gather(*(self._end(stream) for stream in self._streams.values()))

    @staticmethod
    async def _end(stream: Stream) -> None:
        async def left() -> None:
            await stream.end()
            while await stream.read(READ):
                pass

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(left(), END_TIME)
        await stream.close()
