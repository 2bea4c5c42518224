"""The agent of a node: reads its assignment, leads or follows, and watches for what must end the run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from muster.core import event
from muster.core.paths import NodePaths
from muster.core.verdict import Cause, Verdict
from muster.node import cancel_request, processes
from muster.node.agent.guardian import BEAT, NO_LEADER
from muster.node.assignment import Assignment
from muster.node.event_log import EventLog
from muster.node.mesh import PeerLost
from muster.node.sync_client import SyncClient

BEAT_INTERVAL = 5.0  # seconds between two beats to the guardian
FENCE_INTERVAL = 5.0  # seconds between two reads of the claim
FOLLOWER_SLACK = 5.0  # seconds that a follower leaves the leader to keep the deadline first


def main(folder: str, life_fd: int) -> int:
    """Run the agent of a node folder; return a status only if it broke.

    ``life_fd`` is the socket to the guardian, closed when the guardian dies.
    """
    processes.become_subreaper()
    paths = NodePaths(root=Path(folder))
    assignment = Assignment.read(paths.assignment)
    log = EventLog(paths.events, assignment.node)
    paths.agent.write_text(json.dumps({"pid": os.getpid(), "start": processes.start_time(os.getpid())}), encoding="utf-8")
    try:
        asyncio.run(Agent(assignment, paths, log, life_fd).run())
    except Exception as error:
        # a bug of ours must not leave ranks behind: the guardian ends them when it sees this exit status
        traceback.print_exc()
        log.add(event.NOTE, level="error", text=f"the agent of node {assignment.node} broke: {type(error).__name__}: {error}")
        return 70


class Agent:
    """One node's agent; ``halt`` is set to the verdict when the run must end."""

    def __init__(self, assignment: Assignment, paths: NodePaths, log: EventLog, life_fd: int) -> None:
        self._a = assignment
        self._paths = paths
        self._log = log
        self._life = socket.socket(fileno=life_fd)
        self._life.set_inheritable(False)  # inherited by a rank it would hide our death from the guardian
        self._halt: asyncio.Future[Verdict] | None = None

    async def run(self) -> NoReturn:
        """Lead or follow to the end, and leave with the exit status."""
        halt: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._halt = halt
        syncer = SyncClient(self._a.muster_python or sys.executable, self._paths.root, self._log_note, self._register_sync)
        if self._a.node == 0:
            syncer.start()
        self._watch()
        status = await self._run_role(syncer, halt)
        self._log.add(event.NODE_END)
        # nothing is left to be done, and taking a TLS event loop down in order costs more than all that came before
        sys.stdout.flush()
        os._exit(status)

    async def _run_role(self, syncer: SyncClient, halt: asyncio.Future[Verdict]) -> int:
        from muster.node.agent.executor import NodeExecutor
        from muster.node.agent.follower import Follower
        from muster.node.agent.leader import Leader

        executor = NodeExecutor(self._a, self._paths, self._log, syncer)
        role = Leader(self._a, executor, halt) if self._a.node == 0 else Follower(self._a, executor, halt)
        try:
            await role.run()
        except PeerLost as error:
            self._log_note(str(error))
            return NO_LEADER
        return 0

    def _log_note(self, text: str) -> None:
        self._log.add(event.NOTE, level="warning", text=text)

    def _register_sync(self, sync_pid: int) -> None:
        with contextlib.suppress(OSError):
            self._life.send(f"{sync_pid} ".encode())

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            self._life.send(BEAT + b" ")
        asyncio.get_running_loop().call_later(BEAT_INTERVAL, self._beat)

    def _end(self, verdict: Verdict) -> None:
        if self._halt is not None and not self._halt.done():
            self._halt.set_result(verdict)

    # -- what must end the run

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._life.fileno(), self._on_guardian_gone)
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the guardian blocked it until now
        slack = 0.0 if self._a.node == 0 else FOLLOWER_SLACK
        loop.call_later(max(0.0, self._a.deadline + slack - time.time()), self._on_deadline)
        self._log.on_full = self._on_full_disk
        if self._paths.cancel.exists():
            self._on_term()
        self._check_claim()
        self._beat()

    def _on_guardian_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._life.fileno())
        detail = f"the guardian of node {self._a.node} ({socket.gethostname()}) died; all ranks were ended"
        self._end(Verdict(cause=Cause.NODE, node=self._a.node, host=socket.gethostname(), detail=detail))

    def _on_term(self) -> None:
        detail = f"node {self._a.node} ({socket.gethostname()}) is being shut down (SIGTERM)"
        shut_down = Verdict(cause=Cause.NODE, node=self._a.node, host=socket.gethostname(), detail=detail)
        self._end(cancel_request.read_request(self._paths.cancel) or shut_down)

    def _on_deadline(self) -> None:
        ours = f"max_run_duration_seconds = {self._a.plan.limits.max_run_duration:g} passed; all ranks were ended"
        self._end(Verdict(cause=Cause.DEADLINE, detail=self._a.deadline_reason or ours))

    def _on_full_disk(self, words: str) -> None:
        host = socket.gethostname()
        detail = f"node {self._a.node} ({host}): {words}: the disk of {self._paths.root} is full; all ranks were ended"
        self._end(Verdict(cause=Cause.NODE, node=self._a.node, host=host, detail=detail))

    def _check_claim(self) -> None:
        """End the run once a newer attempt owns the job."""
        if not self._a.claim:
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            claim = json.loads(Path(self._a.claim).read_text(encoding="utf-8"))
            owner = (claim["generation"], claim["attempt"])
            if owner != (self._a.generation, self._a.attempt):
                mine = f"attempt {self._a.attempt} of generation {self._a.generation}"
                detail = f"{mine} was replaced by attempt {owner[1]} of generation {owner[0]}"
                self._end(Verdict(cause=Cause.FENCED, detail=detail))
        asyncio.get_running_loop().call_later(FENCE_INTERVAL, self._check_claim)
