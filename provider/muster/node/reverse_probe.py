"""Reverse probe: node 0 connects back to a node that failed to join, and reports which direction is blocked.

A follower that can't reach the leader for a while opens a reverse_probe, on the ports that its leader would have; a leader that
misses a node for a while rings it. So one of the two can tell, and the job fails in seconds and not when the mesh's time is up.
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

OPENED_AFTER = 2.0  # seconds that a follower tries before it opens its reverse_probe
ANSWER_LIMIT = 10.0  # seconds for the answer of a node that has been reached
WHY, OVER = "why", "over"  # what the leader says, before the number of the node that it means


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What ringing found: the node's own ``problem`` with the leader; or that no packet comes through, ``silent`` by why."""

    problem: str = ""
    silent: str = ""


class ReverseProbe:
    """A follower's reverse_probe; ``problem`` is what it says, "" as long as there is nothing to tell.

    ``over`` is done once the leader has said that it goes on without this node.
    """

    def __init__(self, assignment: Assignment, certificate: Path) -> None:
        self._a = assignment
        self._certificate = certificate
        self._server: asyncio.Server | None = None
        self.problem = ""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(self, problem: str) -> None:
        """Take what kept this node from its leader in the last round."""
        self.problem = problem

    async def open_after(self, delay: float = OPENED_AFTER) -> None:
        """Open it after a while; a node on which it can't be opened does without, and one at the leader's own address."""
        await asyncio.sleep(delay)
        own, leader = self._a.addresses[self._a.node], self._a.addresses[0]
        if not own or not leader:
            return
        with contextlib.suppress(OSError):
            address = await asyncio.to_thread(socket.gethostbyname, own)
            if address != await asyncio.to_thread(socket.gethostbyname, leader):
                self._server = await mesh.listen(address, self._a.id.marker, self._certificate, self._answer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError, ValueError):
            word, node = (await asyncio.wait_for(reader.readline(), ANSWER_LIMIT)).decode().split()
            if int(node) == self._a.node:  # else it is meant for another node of this host
                writer.write(json.dumps({"problem": self.problem}).encode() + b"\n")
                await writer.drain()
                if word == OVER and not self.over.done():
                    self.over.set_result(None)
        writer.close()

    def close(self) -> None:
        """Close it; the node has found its leader, or leaves."""
        if self._server is not None:
            self._server.close()


async def probe_back(assignment: Assignment, node: int, certificate: Path, word: str = WHY) -> ProbeResult:
    """Ring a node's reverse_probe, on all its ports at once."""
    context = mesh.tls(certificate, server=False)
    line = f"{word} {node}\n".encode()
    ports = mesh.ports_of(assignment.id.marker)
    answers = await asyncio.gather(*(_ring(assignment.addresses[node], port, context, line) for port in ports))
    problem = next((answer.problem for answer in answers if answer.problem), "")
    silent = answers[0].silent if all(answer.silent for answer in answers) else ""
    return ProbeResult(problem=problem, silent=silent)


async def _ring(address: str, port: int, context: ssl.SSLContext, line: bytes) -> ProbeResult:
    try:
        reader, writer = await mesh.call(address, port, context)
    except (OSError, asyncio.TimeoutError) as error:
        return ProbeResult(silent=mesh.reason(error) if mesh.is_silent(error) else "")
    try:
        writer.write(line)
        return ProbeResult(problem=str(json.loads(await asyncio.wait_for(reader.readline(), ANSWER_LIMIT))["problem"]))
    except (OSError, asyncio.TimeoutError, ValueError, KeyError):
        return ProbeResult()
    finally:
        writer.close()
