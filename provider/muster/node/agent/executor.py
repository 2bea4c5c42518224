"""Executes the leader's requests on one node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core import event
from muster.core.codec import to_data
from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings
from muster.node import processes
from muster.node.agent.commands import (
    FilesStored,
    FinishLog,
    InspectNode,
    RanksStopped,
    ReportExit,
    Restore,
    Restored,
    StartRanks,
    StartSpawner,
    StopRanks,
    StoreFiles,
    StoreResult,
    StoreUnderNames,
)
from muster.node.agent.exits import REPORT_GRACE
from muster.node.assignment import Assignment
from muster.node.event_log import EventLog
from muster.node.preflight import facts
from muster.node.preflight.probe import NodeProbe
from muster.node.ranks.commands import JoinRank, LineOutput, RunLine, RunRemotely, ServeRank
from muster.node.ranks.control_socket import ControlSocket
from muster.node.ranks.diagnosis import RankExit, count_kernel_kills, diagnose
from muster.node.ranks.environment import rank_spec
from muster.node.ranks.supervisor import SPAWNER, RankProcess, RankSupervisor
from muster.node.ranks.termination import Terminator
from muster.node.rpc import CommandFailed, Handler, Request
from muster.node.sync_client import SyncClient
from muster.node.sync_commands import Finish, RestoreCheckpoints, UploadFiles, UploadObjects

if TYPE_CHECKING:
    from muster.node.ranks.remote_exec import Ask
    from muster.node.ranks.spawner import NodeSpawner

METRICS_INTERVAL = 1.0  # seconds between two reads of new metrics
# seconds from the start of a follower's ranks to that of its sync process: a job that is over by then never pays for the
# import of botocore, and a longer one pays while its ranks still import their framework
SYNC_DELAY = 1.0


class NodeExecutor:
    """One node's own part.

    ``handlers`` serve the leader. ``push`` sends the leader what it has not asked for: the exit of a rank. ``ask`` asks any
    node; only the leader's own has it.
    """

    def __init__(self, assignment: Assignment, paths: NodePaths, log: EventLog, syncer: SyncClient) -> None:
        self.assignment = assignment
        self.paths = paths
        self.log = log
        self.syncer = syncer
        self.push: Callable[[Request[None]], None] = lambda request: None
        self.ask: Ask | None = None
        self._ranks = RankSupervisor(paths, log, self._on_rank_exit)
        self._control_socket = ControlSocket(
            paths.socket, {ServeRank: self._ranks.serve, JoinRank: self._on_join, RunRemotely: self._on_remote_shell}
        )
        self._spawner: NodeSpawner | None = None
        self._ending: asyncio.Task[tuple[RankExit, ...]] | None = None
        self._ending_since = math.inf
        self.secrets = _consume_secrets(paths)
        # whether ranks ran here before this agent: the node has come back to its run
        self.was_restarted = not assignment.commit_only and any(paths.ranks.glob("rank-*"))
        self._local_bindings: dict[str, str] = {}
        self._kernel_kills = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._probe = NodeProbe(
            plan=assignment.plan,
            node=assignment.node,
            address=assignment.addresses[assignment.node],
            interpreter=assignment.interpreter,
            devices=assignment.gpus,
            work=paths.root,
        )
        self._facts: facts.Facts | None = None

    @property
    def handlers(self) -> Mapping[type[Request[Any]], Handler]:
        """The commands of the leader."""
        return {
            InspectNode: lambda _: self.inspect(),
            Restore: self._restore,
            StartRanks: self._start,
            StartSpawner: lambda _: self._start_spawner(),
            RunLine: self._run_line,
            StopRanks: lambda _: self.stop(),
            StoreFiles: lambda request: self.store_files(request.timeout),
            StoreUnderNames: self._store_under_names,
            FinishLog: lambda request: self.finish_log(request.timeout),
            **self._probe.handlers,
        }

    async def inspect(self) -> facts.Facts:
        """Return the facts of this node; its code is read once, before ranks can write beside it."""
        a = self.assignment
        seen = await self._probe.inspect(self._untouched_code())
        self._local_bindings = {
            "interpreter": a.interpreter or "python3",
            "workdir": str(self.paths.work),
            "attempt": a.id.marker.replace("/", "-"),
        }
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)
        try:
            self.log.add(event.FACTS, facts=to_data(seen))
        except OSError as error:
            seen = facts.broken(a.node, f"its event log can't be written: {error.strerror}; make room on its disk")
        self._facts = seen
        return seen

    def _reap(self) -> None:
        self._ranks.record_reaped(processes.reap())

    def _untouched_code(self) -> Path | None:
        """Return the folder of the code; None if ranks, or a mount of the container, may have written to it."""
        a = self.assignment
        inside = any(mount.target.startswith(str(self.paths.work)) for mount in a.plan.container.mounts)
        return None if self._facts is not None or a.commit_only or inside or self.was_restarted else self.paths.work

    async def _restore(self, request: Restore) -> Restored:
        nodes = len(self.assignment.plan.nodes)
        restore = RestoreCheckpoints(run=request.run, generation=request.generation, nodes=nodes, newest=request.newest)
        try:
            return Restored(files=await self.syncer.call(restore))
        except CommandFailed as error:
            return Restored(error=str(error))

    def _start(self, request: StartRanks) -> None:
        a = self.assignment
        self.secrets = {**self.secrets, **request.secrets}
        self._probe.listener.close()
        self._ending = None
        self._ending_since = math.inf
        self._kernel_kills = count_kernel_kills()
        known = request.local_bindings[a.node]
        self._local_bindings.update(known, scratch=str(self.paths.tools) if known["shared_host"] else "")
        bindings = Bindings(hosts=request.hosts, ports=request.ports, local=self._local_bindings)
        self._ranks.reset()
        self._control_socket.open()
        if a.plan.spawner is not None:
            from muster.node.ranks.spawner import NodeSpawner, SpawnerSetup

            setup = SpawnerSetup(a, self.paths, bindings, self.secrets)
            setup.write_remote_shell()
            self._spawner = NodeSpawner(a, setup, self._ranks, ask=self.ask, push=self.push)
        else:
            for rank in a.plan.nodes[a.node].ranks:
                self._ranks.start(rank_spec(a, self.paths, rank, bindings, self.secrets))
            self._later(SYNC_DELAY, self.syncer.start_behind_ranks)
        self._later(METRICS_INTERVAL, self._read_metrics)

    # -- where a spawner starts the ranks

    def _start_spawner(self) -> None:
        assert self._spawner is not None
        self._spawner.start()

    async def _run_line(self, request: RunLine) -> int:
        assert self._spawner is not None
        return await self._spawner.run_line(request)

    def forward_output(self, output: LineOutput) -> None:
        """Forward what a line of shell has written to its remote shell."""
        if self._spawner is not None:
            self._spawner.forward(output)

    async def _on_remote_shell(self, connection: socket.socket, request: RunRemotely) -> None:
        if self._spawner is not None and self._ending is None:
            await self._spawner.run_remotely(connection, request)

    async def _on_join(self, connection: socket.socket, request: JoinRank) -> None:
        """Serve a rank that the spawner has started; none any more once the end has begun."""
        if self._spawner is not None and self._ending is None:
            self._later(SYNC_DELAY, self.syncer.start_behind_ranks)
            await self._spawner.join(connection, request)

    # -- while ranks run

    def _later(self, delay: float, action: Callable[[], object]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay, action))

    def _read_metrics(self) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time()]
        self._ranks.read_metrics()
        self._later(METRICS_INTERVAL, self._read_metrics)

    def _on_rank_exit(self, process: RankProcess) -> None:
        process.victim = self._is_victim(process)
        end = self._diagnose(process)
        if end.failed and end.decides and not end.victim and not self.assignment.plan.elastic:
            if self._spawner is None or end.is_conclusive:
                self.end_ranks()
            else:
                self._later(REPORT_GRACE, self.end_ranks)
        self.push(ReportExit(exit=end))

    def _is_victim(self, process: RankProcess) -> bool:
        """Return whether it was ended: by us, because the run was ending, or by the spawner, which kills shims."""
        end = process.exit
        if end is None:
            return False
        if process.spec.rank == SPAWNER:
            return self._ending is not None and end.signal == signal.SIGKILL
        return end.at >= self._ending_since or (end.vanished and self._spawner is not None)

    def _diagnose(self, process: RankProcess) -> RankExit:
        return diagnose(process, self.assignment.node, self._kernel_kills)

    async def stop(self) -> RanksStopped:
        """End every rank and descendant of this node, verified; return how each rank ended, and the last metrics."""
        exits = await asyncio.shield(self.end_ranks())
        return RanksStopped(exits=exits, metrics=dict(self._ranks.last_metrics))

    def end_ranks(self) -> asyncio.Task[tuple[RankExit, ...]]:
        """Start to end all ranks, once; the task returns how each ended."""
        if self._ending is None:
            self._ending_since = time.time()
            self._ending = asyncio.get_running_loop().create_task(self._end_ranks())
        return self._ending

    async def _end_ranks(self) -> tuple[RankExit, ...]:
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        mark = self._spawner.mark if self._spawner else ""
        survivors = await Terminator(self._ranks, lambda: self.syncer.pid, mark).run(self.assignment.plan.limits.grace)
        if survivors:
            text = f"processes {survivors} could not be ended: they are another user's, or the kernel keeps them"
            self.log.add(event.NOTE, level="error", text=text)
        self._control_socket.close()
        self._ranks.close()
        return tuple(self._diagnose(process) for process in self._ranks.processes.values())

    # -- in the end

    async def store_files(self, timeout: float) -> FilesStored:
        """Store every kept file of this node."""
        if not self.syncer.pid and not self._has_files():
            return FilesStored()
        try:
            return FilesStored(files=await self.syncer.call(UploadFiles(timeout=timeout)))
        except CommandFailed as error:
            return FilesStored(error=str(error))

    def _has_files(self) -> bool:
        kept = (self.paths.outputs, self.paths.logs, self.paths.checkpoints, self.paths.ranks)
        return any(
            entry.is_symlink() or (entry.is_file() and (folder != self.paths.ranks or entry.stat().st_size > 0))
            for folder in kept
            for entry in folder.rglob("*")
        )

    async def _store_under_names(self, request: StoreUnderNames) -> StoreResult:
        try:
            await self.syncer.call(UploadObjects(files=request.files, timeout=request.timeout))
        except CommandFailed as error:
            return StoreResult(error=str(error))
        return StoreResult()

    async def finish_log(self, timeout: float) -> str:
        """Store the rest of this node's event log; without a sync process return the whole log, for the leader to store."""
        if not self.syncer.pid:
            return self.paths.events.read_text(encoding="utf-8")
        with contextlib.suppress(CommandFailed):  # the log in the node's folder has what the store lacks
            await self.syncer.call(Finish(timeout=timeout))
        return ""


def _consume_secrets(paths: NodePaths) -> dict[str, str]:
    """Read the secrets into memory and remove their file."""
    if not paths.secrets.exists():
        return {}
    secrets: dict[str, str] = json.loads(paths.secrets.read_text(encoding="utf-8"))
    paths.secrets.unlink()
    return secrets
