"""Executes the leader's requests on one node."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core import event
from muster.core.codec import to_data
from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings
from muster.node import processes
from muster.node.agent.exits import REPORT_GRACE, is_conclusive
from muster.node.assignment import Assignment
from muster.node.event_log import EventLog
from muster.node.preflight import facts
from muster.node.preflight.probe import NodeProbe
from muster.node.ranks import diagnosis
from muster.node.ranks.control_socket import ControlSocket
from muster.node.ranks.environment import rank_spec
from muster.node.ranks.exit_report import report
from muster.node.ranks.supervisor import SPAWNER, RankProcess, RankSupervisor
from muster.node.ranks.termination import Terminator
from muster.node.sync_client import SyncClient

if TYPE_CHECKING:
    from muster.node.ranks.remote_exec import Ask
    from muster.node.ranks.spawner import NodeSpawner

METRICS_INTERVAL = 1.0  # seconds between two looks for new metrics
# seconds from the start of a follower's ranks to that of its sync process: a job that is over by then never pays for the
# import of botocore, and a longer one pays while its ranks still import their framework
SYNC_DELAY = 1.0

Push = Callable[..., None]


class NodeExecutor:
    """One node's own part.

    ``push(do, **fields)`` sends the leader what it has not asked for: the end of a rank. ``ask(node, do, **fields)`` asks any
    node; only the leader's own has it.
    """

    def __init__(self, assignment: Assignment, paths: NodePaths, log: EventLog, syncer: SyncClient) -> None:
        self.assignment = assignment
        self.paths = paths
        self.log = log
        self.syncer = syncer
        self.push: Push = lambda do, **fields: None
        self.ask: Ask | None = None
        self._ranks = RankSupervisor(paths, log, self._on_rank_end)
        self._control_socket = ControlSocket(
            paths.socket, {"rank": self._ranks.serve, "joins": self._on_join, "shell": self._on_shell}
        )
        self._spawner: NodeSpawner | None = None
        self._ending: asyncio.Task[list[dict[str, Any]]] | None = None
        self._ending_since = math.inf
        self.secrets = _take_secrets(paths)
        # whether ranks ran here before this agent: the node has come back to its run
        self.again = not assignment.commit_only and any(paths.ranks.glob("rank-*"))
        self._here: dict[str, str] = {}
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

    async def handle(self, message: dict[str, Any]) -> Any:
        """Answer a request of the leader's, by its name; what a preflight asks is the probe's."""
        fields = {key: value for key, value in message.items() if key not in ("do", "id")}
        name = f"do_{message['do']}"
        return await getattr(self if hasattr(self, name) else self._probe, name)(**fields)

    async def do_facts(self) -> dict[str, Any]:
        """Look at this node and record what was seen; the code is looked at once, before ranks can write beside it."""
        a = self.assignment
        seen = await self._probe.look(self._untouched_code())
        self._here = {
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
        data: dict[str, Any] = to_data(seen)
        return data

    def _reap(self) -> None:
        self._ranks.note_gone(processes.reap())

    def _untouched_code(self) -> Path | None:
        """Give the folder of the code; None if it may have been written to, by ranks or as a mount of the container."""
        a = self.assignment
        inside = any(mount.target.startswith(str(self.paths.work)) for mount in a.plan.container.mounts)
        return None if self._facts is not None or a.commit_only or inside or self.again else self.paths.work

    async def do_restore(self, run: str, generation: int, newest: bool = False) -> dict[str, Any]:
        """Put the last committed checkpoints of a run in place; with ``newest`` those that are newer than what is here."""
        nodes = len(self.assignment.plan.nodes)
        return await self.syncer.ask("restore", run=run, generation=generation, nodes=nodes, newest=newest)

    async def do_start(
        self, hosts: list[str], ports: list[dict[str, int]], here: list[dict[str, str]], secrets: dict[str, str] | None = None
    ) -> None:
        """Start the ranks of this node, or be ready for those that a spawner starts.

        ``hosts``, ``ports`` and ``here``, what the leader knows better, by node; ``secrets`` for a node that came back.
        """
        a = self.assignment
        self.secrets = {**self.secrets, **(secrets or {})}
        self._probe.doors.close()
        self._ending = None
        self._ending_since = math.inf
        self._kernel_kills = diagnosis.kernel_kills()
        self._here.update(here[a.node], scratch=str(self.paths.tools) if here[a.node]["shared_host"] else "")
        bindings = Bindings(hosts=tuple(hosts), ports=tuple(ports), here=self._here)
        self._ranks.begin()
        self._control_socket.open()
        if a.plan.spawner is not None:
            from muster.node.ranks.spawner import Node, NodeSpawner, spawner_setup

            side = spawner_setup(a, self.paths, bindings, self.secrets)
            node = Node(number=a.node, nodes=len(a.plan.nodes), work=str(self.paths.work))
            self._spawner = NodeSpawner(side, self._ranks, node, ask=self.ask, push=self._push)
        else:
            for rank in a.plan.nodes[a.node].ranks:
                self._ranks.start(rank_spec(a, self.paths, rank, bindings, self.secrets))
            self._later(SYNC_DELAY, self.syncer.start_behind_ranks)
        self._later(METRICS_INTERVAL, self._look_for_metrics)

    # -- where a spawner starts the ranks

    async def do_spawner(self) -> None:
        """Start the spawner; every node is ready for its ranks. Node 0 only, unless each node has one."""
        assert self._spawner is not None
        self._spawner.start()

    async def do_shell(self, number: int, line: str) -> int:
        """Run a line of shell for the spawner; gives its exit code."""
        assert self._spawner is not None
        return await self._spawner.run_shell(number, line)

    def show_shell(self, number: int, text: str) -> None:
        """Take what a line of shell has written."""
        if self._spawner is not None:
            self._spawner.show_shell(number, text)

    async def _on_shell(self, connection: socket.socket, wish: dict[str, str]) -> None:
        if self._spawner is not None and self._ending is None:
            await self._spawner.serve_shell(connection, wish)

    async def _on_join(self, connection: socket.socket, told: dict[str, Any]) -> None:
        """Let a rank in that the spawner has started; none any more once the end has begun."""
        if self._spawner is not None and self._ending is None:
            self._later(SYNC_DELAY, self.syncer.start_behind_ranks)
            await self._spawner.join(connection, told)

    def _push(self, do: str, **fields: Any) -> None:
        self.push(do, **fields)

    # -- while ranks run

    def _later(self, delay: float, action: Callable[[], object]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(delay, action))

    def _look_for_metrics(self) -> None:
        self._timers = [timer for timer in self._timers if timer.when() > asyncio.get_running_loop().time()]
        self._ranks.read_metrics()
        self._later(METRICS_INTERVAL, self._look_for_metrics)

    def _on_rank_end(self, process: RankProcess) -> None:
        process.victim = self._is_victim(process)
        report = self._report(process)
        if process.failed and process.spec.decides and not process.victim and not self.assignment.plan.elastic:
            if self._spawner is None or is_conclusive(report):
                self.end_ranks()
            else:
                self._later(REPORT_GRACE, self.end_ranks)
        self.push("rank_ended", end=report)

    def _is_victim(self, process: RankProcess) -> bool:
        """Whether somebody ended it: we, because the run was ending, or the spawner, which kills shims."""
        if process.spec.rank == SPAWNER:
            return self._ending is not None and process.signal == signal.SIGKILL
        return process.ended >= self._ending_since or (process.vanished and self._spawner is not None)

    def _report(self, process: RankProcess) -> dict[str, Any]:
        return report(process, self.assignment.node, self._kernel_kills)

    async def do_stop(self) -> dict[str, Any]:
        """End every rank and descendant of this node, verified; gives how each rank ended, and the last metrics."""
        ranks = await asyncio.shield(self.end_ranks())
        return {"ranks": ranks, "metrics": self._ranks.last_metrics}

    def end_ranks(self) -> asyncio.Task[list[dict[str, Any]]]:
        """Begin the end of all ranks, once; the task gives how each ended."""
        if self._ending is None:
            self._ending_since = time.time()
            self._ending = asyncio.get_running_loop().create_task(self._end_ranks())
        return self._ending

    async def _end_ranks(self) -> list[dict[str, Any]]:
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
        return [self._report(process) for process in self._ranks.processes.values()]

    async def do_files(self, patience: float) -> dict[str, Any]:
        """Bring every kept file of this node into the store; gives them with size and sha256."""
        if not self.syncer.pid and not self._has_files():
            return {"ok": True, "files": []}
        return await self.syncer.ask("files", patience=patience)

    def _has_files(self) -> bool:
        kept = (self.paths.outputs, self.paths.logs, self.paths.checkpoints, self.paths.ranks)
        return any(
            entry.is_symlink() or (entry.is_file() and (folder != self.paths.ranks or entry.stat().st_size > 0))
            for folder in kept
            for entry in folder.rglob("*")
        )

    async def do_place(self, files: list[dict[str, str]], patience: float) -> dict[str, Any]:
        """Make sure that the store has this node's content under the names that the leader decided on."""
        return await self.syncer.ask("place", files=files, patience=patience)

    async def do_last_words(self, patience: float) -> str:
        """Store the rest of this node's event log; without a sync process give the whole log, for the leader to store."""
        if not self.syncer.pid:
            return self.paths.events.read_text(encoding="utf-8")
        await self.syncer.ask("finish", patience=patience)
        return ""


def _take_secrets(paths: NodePaths) -> dict[str, str]:
    """Read the secrets into memory and remove their file."""
    if not paths.secrets.exists():
        return {}
    secrets: dict[str, str] = json.loads(paths.secrets.read_text(encoding="utf-8"))
    paths.secrets.unlink()
    return secrets
