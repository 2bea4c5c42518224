"""One Slurm as this process sees it: its commands, and its job states for all who watch, over one connection."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from muster.core.errors import MusterError, RequestError, TargetError
from muster.node.rpc import Request
from muster.node.slurm import job_control
from muster.targets.hosts.connection import HostConnection
from muster.targets.hosts.shell import CommandResult
from muster.targets.slurm import query
from muster.targets.slurm.login_node import LoginNode
from muster.targets.slurm.options import Options
from muster.targets.slurm.query import SlurmJobStatus
from muster.targets.slurm.states import LOST_NODE
from muster.targets.watch.news import News

A = TypeVar("A")
FASTEST = 1.0  # seconds between two questions while something happens
COMMAND_TIME = 60.0
UNKNOWN = "Invalid job id"


@dataclass(frozen=True, kw_only=True)
class SlurmOutage(News):
    """Slurm has not answered since ``since`` (monotonic seconds)."""

    since: float
    reason: str


Listener = Callable[[SlurmJobStatus | SlurmOutage], None]


class Cluster:
    """Lives in the background loop only; made once for a login node and its options."""

    def __init__(self, node: LoginNode, options: Options) -> None:
        self.connection = HostConnection(node)
        self.options = options
        self._listeners: dict[object, tuple[str, Listener]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._last: dict[str, SlurmJobStatus] = {}
        self._lost_since = 0.0

    # -- asking

    async def ask(self, request: Request[A], *, limit: float = COMMAND_TIME) -> A:
        """Return the answer of Slurm job control, on the login node."""
        return await self.connection.ask(job_control.PART, request, limit=limit)

    async def command(self, argv: Sequence[str]) -> CommandResult:
        """Run one of Slurm's commands on the login node.

        :raises RequestError: it is not there.
        """
        full = [self.options.command(argv[0]), *argv[1:]]
        done = await self.connection.use(lambda shell: shell.run(full, limit=COMMAND_TIME))
        if done.code in (126, 127):
            login_node = f"the login node {self.connection.host.name}"
            raise RequestError(f"{login_node} can't run {full[0]} ({done.message}); name the folder of Slurm's commands by bin")
        return done

    async def output(self, argv: Sequence[str]) -> str:
        """Return what one of Slurm's commands prints.

        :raises TargetError: it failed; with its own reason.
        """
        done = await self.command(argv)
        if done.code:
            raise TargetError(f"{argv[0]} on {self.connection.host.name} failed: {done.message or f'exit {done.code}'}")
        return done.out.decode(errors="replace")

    async def status(self, job: str) -> SlurmJobStatus:
        """Return the status of one job, from accounting once squeue has it no more."""
        done = await self.command(query.squeue_command([job]))
        if done.code and UNKNOWN not in done.message:
            raise TargetError(f"squeue on {self.connection.host.name} failed: {done.message}")
        found = query.parse_squeue(done.out.decode(errors="replace")).get(job)
        return found or (await self._accounted([job]))[job]

    # -- all who watch

    def listen(self, job: str, listener: Listener) -> object:
        """Report the job's states to a listener, the first at once; return the ticket for :meth:`unsubscribe`."""
        ticket = object()
        self._listeners[ticket] = (job, listener)
        self._changed.set()
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(self._poll())
        return ticket

    def unsubscribe(self, ticket: object) -> None:
        """Remove a listener."""
        self._listeners.pop(ticket, None)

    async def _poll(self) -> None:
        """Poll all jobs at once while there are listeners: more often while something changes."""
        fastest, delay = min(FASTEST, self.options.poll_interval), 0.0
        while self._listeners:
            self._changed.clear()
            busy = await self._poll_once()
            delay = fastest if busy else min(max(delay, fastest) * 1.5, self.options.poll_interval)
            await asyncio.sleep(fastest)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.0, delay - fastest))

    async def _poll_once(self) -> bool:
        """Poll once, and report to all listeners; return whether anything is new."""
        wanted = {job for job, _ in self._listeners.values()}
        try:
            states = await self._states(wanted)
        except Exception as error:  # also a bug of ours, or an answer of a kind never seen: whoever watches must hear of it
            self._lost_since = self._lost_since or time.monotonic()
            known = isinstance(error, MusterError)
            reason = str(error) if known else f"Slurm can't be asked: {type(error).__name__}: {error}"
            outage = SlurmOutage(since=self._lost_since, reason=reason)
            for _, listener in list(self._listeners.values()):
                listener(outage)
            return False
        self._lost_since = 0.0
        for job, listener in list(self._listeners.values()):
            if job in states:
                listener(states[job])
        changed, self._last = states != self._last, states
        return changed

    async def _states(self, wanted: set[str]) -> dict[str, SlurmJobStatus]:
        found = query.parse_squeue(await self.output(query.squeue_command()))
        states = {job: found[job] for job in wanted if job in found}
        missing = sorted(wanted - states.keys())
        if missing:
            states.update(await self._accounted(missing))
        return {job: await self._with_lost_nodes(status) for job, status in states.items()}

    async def _accounted(self, jobs: list[str]) -> dict[str, SlurmJobStatus]:
        """Return the accounted status of jobs; unknown on a cluster without accounting."""
        done = await self.command(query.sacct_command(jobs))
        found = query.parse_sacct(done.out.decode(errors="replace")) if done.code == 0 else {}
        return {job: found.get(job) or SlurmJobStatus(job=job, name="") for job in jobs}

    async def _with_lost_nodes(self, status: SlurmJobStatus) -> SlurmJobStatus:
        if status.name not in LOST_NODE or not status.nodes:
            return status
        before = self._last.get(status.job)
        if before is not None and before.lost and before.name == status.name:
            return replace(status, lost=before.lost)
        done = await self.command(query.nodes_command(status.nodes))
        return replace(status, lost=query.parse_nodes(done.out.decode(errors="replace")) if done.code == 0 else "")
