"""Reverse probe: node 0 connects back to a node that failed to join, and learns which direction is blocked.

A follower that can't reach the leader for a while listens on the ports that a leader of its own would have; a leader that
misses a node for a while connects to them. So one of the two can name the reason, and the job fails in seconds rather than when
the mesh's time is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from muster.node import mesh
from muster.node.assignment import Assignment
from muster.node.rpc import CommandFailed, Commands, Request

OPENED_AFTER = 2.0  # seconds that a follower tries before it listens
ANSWER_LIMIT = 10.0  # seconds for the answer of a node that has been reached


@dataclass(frozen=True, kw_only=True)
class GetProblem(Request[str]):
    """Ask a node why it can't reach the leader; with ``over`` the run goes on without it. ``node``: hosts can have several."""

    node: int
    over: bool = False


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Result of a probe: the node's own ``problem`` with the leader, or in ``silent`` why no packet comes back."""

    problem: str = ""
    silent: str = ""


class ReverseProbe:
    """A follower's end; ``problem`` is the answer, "" as long as there is none.

    ``over`` is done once the leader has said that the run goes on without this node.
    """

    def __init__(self, assignment: Assignment, certificate: Path) -> None:
        self._a = assignment
        self._certificate = certificate
        self._commands = Commands({GetProblem: self._get_problem})
        self._server: asyncio.Server | None = None
        self.problem = ""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set_problem(self, problem: str) -> None:
        """Keep what was wrong with the last try to reach the leader."""
        self.problem = problem

    async def open_after(self, delay: float = OPENED_AFTER) -> None:
        """Listen after a while; not where the ports are taken, nor at the leader's own address."""
        await asyncio.sleep(delay)
        own, leader = self._a.addresses[self._a.node], self._a.addresses[0]
        if not own or not leader:
            return
        with contextlib.suppress(OSError):
            address = await asyncio.to_thread(socket.gethostbyname, own)
            if address != await asyncio.to_thread(socket.gethostbyname, leader):
                self._server = await mesh.listen(address, self._a.id.marker, self._certificate, self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError):
            line = await asyncio.wait_for(reader.readline(), ANSWER_LIMIT)
            writer.write(json.dumps(self._commands.answer(line)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _get_problem(self, request: GetProblem) -> str:
        if request.node != self._a.node:
            raise CommandFailed(f"this is node {self._a.node}")
        if request.over and not self.over.done():
            self.over.set_result(None)
        return self.problem

    def close(self) -> None:
        """Stop listening; the node has found its leader, or leaves."""
        if self._server is not None:
            self._server.close()


async def probe_back(assignment: Assignment, node: int, certificate: Path, *, over: bool = False) -> ProbeResult:
    """Connect back to a node that has not joined, on all its ports at once."""
    context = mesh.tls(certificate, server=False)
    request = GetProblem(node=node, over=over)
    ports = mesh.ports_of(assignment.id.marker)
    results = await asyncio.gather(*(_probe(assignment.addresses[node], port, context, request) for port in ports))
    problem = next((result.problem for result in results if result.problem), "")
    silent = results[0].silent if all(result.silent for result in results) else ""
    return ProbeResult(problem=problem, silent=silent)


async def _probe(address: str, port: int, context: ssl.SSLContext, request: GetProblem) -> ProbeResult:
    try:
        reader, writer = await mesh.open_connection(address, port, context)
    except (OSError, asyncio.TimeoutError) as error:
        return ProbeResult(silent=mesh.connection_problem(error) if mesh.is_silent(error) else "")
    try:
        writer.write(json.dumps(request.encode()).encode() + b"\n")
        reply = json.loads(await asyncio.wait_for(reader.readline(), ANSWER_LIMIT))
        return ProbeResult(problem=request.decode_reply(reply))
    except (OSError, asyncio.TimeoutError, ValueError, CommandFailed):
        return ProbeResult()
    finally:
        writer.close()
