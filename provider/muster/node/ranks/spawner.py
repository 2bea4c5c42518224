"""A node's part where a spawner (mpirun, torchrun) starts the ranks: its environment, its lines of shell, its ranks."""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings, resolve
from muster.core.plan import REMOTE_SHELL, RankPlan
from muster.node.assignment import Assignment
from muster.node.ranks.commands import JoinRank, LineOutput, RunLine, RunRemotely
from muster.node.ranks.environment import inherited, rank_spec, search_path
from muster.node.ranks.supervisor import SPAWNER, RankSpec, RankSupervisor
from muster.node.rpc import Request

if TYPE_CHECKING:
    from muster.node.ranks.remote_exec import Ask, RemoteExec

FOLDER = "MUSTER_SHIM_FOLDER"  # all tools of a spawner carry it, and no rank does
_PYTHON, _SHIM = "MUSTER_SHIM_PYTHON", "MUSTER_SHIM"
# resolved on the very node, so folders and interpreters may differ between nodes, and hold any character
SHIM_COMMAND = ("/bin/sh", "-c", f'exec "${_PYTHON}" -I -S "${_SHIM}" "${FOLDER}"')
# a batch system's variables are kept from the spawner: it would start its ranks over that system, past the agents
BATCH_SYSTEMS = ("SLURM_", "SBATCH_", "SRUN_", "PBS_", "LSB_", "SGE_", "PE_", "OAR_", "FLUX_")

Push = Callable[[Request[Any]], None]


class SpawnerSetup:
    """Environment and files of a spawner and its processes on this node; created when the ranks start."""

    def __init__(self, assignment: Assignment, paths: NodePaths, bindings: Bindings, secrets: Mapping[str, str]) -> None:
        spawner = assignment.plan.nodes[assignment.node].starter or assignment.plan.spawner
        assert spawner is not None
        self._a = assignment
        self._paths = paths
        self._spawner = spawner
        self._bindings = bindings
        self._secrets = secrets
        self._ranks = {rank.rank: rank for node in assignment.plan.nodes for rank in node.ranks}
        self.per_node = spawner.per_node  # it starts this node's ranks only
        self.work = str(paths.work)

    def write_remote_shell(self) -> None:
        """Write the remote shell; only node 0's spawner runs it, but Open MPI 4 looks for it on every node."""
        if self.per_node:
            return
        program = self._paths.tools / REMOTE_SHELL
        client = Path(__file__).with_name("remote_shell.py")
        words = [sys.executable, "-I", "-S", str(client), str(self._paths.root)]
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8", errors="surrogateescape")
        program.chmod(0o700)

    def spawner_spec(self) -> RankSpec:
        """Return the spawner ready to run; on node 0 only, unless each node has one."""
        argv = [resolve(text, self._bindings) for text in self._spawner.argv]
        return RankSpec(
            rank=SPAWNER,
            argv=[*argv, *SHIM_COMMAND],
            env=self.environment("spawner"),
            cwd=str(self._paths.work),
            decides=False,
            name=f"{self._spawner.name}-{self._a.node}" if self.per_node else self._spawner.name,
        )

    def environment(self, scratch: str) -> dict[str, str]:
        """Return the variables of the spawner, or of a line that it runs here, with a scratch folder of its own.

        Several tools of one machine that share a scratch folder race between their starts and ends.
        """
        folder = self._paths.tools / scratch
        folder.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in inherited(self._a).items() if not name.startswith(BATCH_SYSTEMS)}
        own = {name: value for name, text in self._spawner.env if (value := resolve(text, self._bindings))}
        shim = {_PYTHON: sys.executable, _SHIM: str(Path(__file__).with_name("shim.py")), FOLDER: str(self._paths.root)}
        path = f"{self._paths.tools}{os.pathsep}{search_path(self._a.plan, self._a.interpreter)}"
        return {**clean, **dict(self._a.plan.env), **own, **shim, "PATH": path, "TMPDIR": str(folder)}

    def rank_spec(self, env: Mapping[str, str]) -> RankSpec:
        """Return the rank that a shim is, by the environment that the spawner gave it.

        :raises ValueError: the job has no such rank.
        """
        if self.per_node:
            return self._own_rank(env)
        rank = self._ranks.get(int(env.get(self._spawner.rank_variable, SPAWNER)))
        if rank is None:
            raise ValueError("a process that is no rank of this job")
        landed = dataclasses.replace(rank, local_rank=int(env.get(self._spawner.local_rank_variable, rank.local_rank)))
        return self._spec(landed, {name: env[name] for name in self._kept(env)})

    def _own_rank(self, env: Mapping[str, str]) -> RankSpec:
        """Return this node's rank of the local rank in ``env``; its number and the world size there may be new."""
        local_rank = int(env.get(self._spawner.local_rank_variable, SPAWNER))
        known = {rank.local_rank: rank for rank in self._a.plan.nodes[self._a.node].ranks}
        if local_rank not in known:
            raise ValueError("a process that is no rank of this node")
        identity = {
            "MUSTER_RANK": env[self._spawner.rank_variable],
            "MUSTER_WORLD_SIZE": env[self._spawner.world_size_variable],
        }
        spec = self._spec(known[local_rank], {name: env[name] for name in self._kept(env)}, identity)
        return dataclasses.replace(spec, number=int(env[self._spawner.rank_variable]))

    def _spec(self, rank: RankPlan, kept: Mapping[str, str], identity: Mapping[str, str] = MappingProxyType({})) -> RankSpec:
        return rank_spec(self._a, self._paths, rank, self._bindings, self._secrets, kept=kept, spawner_identity=identity)

    def _kept(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name.startswith(self._spawner.keeps)]


class NodeSpawner:
    """One node's spawner and what it starts, from the start of the ranks to their end.

    ``ask`` reaches the agent of any node, on node 0 only; ``push`` sends to the leader. ``mark``: a variable of all its tools.
    """

    mark = FOLDER

    def __init__(
        self, assignment: Assignment, setup: SpawnerSetup, ranks: RankSupervisor, *, ask: Ask | None, push: Push
    ) -> None:
        self._a = assignment
        self._setup = setup
        self._ranks = ranks
        self._ask = ask
        self._push = push
        self._remote_exec: RemoteExec | None = None

    def start(self) -> None:
        """Start the spawner, once every node is ready for its ranks; on node 0 only, unless each node has one."""
        if not self._setup.per_node:
            from muster.node.ranks.remote_exec import RemoteExec

            assert self._ask is not None
            self._remote_exec = RemoteExec(len(self._a.plan.nodes), self._ask)
        self._ranks.start(self._setup.spawner_spec())

    async def run_line(self, request: RunLine) -> int:
        """Run a line of shell for the spawner; return its exit code."""
        from muster.node.ranks.remote_exec import FAILED, run_line

        def forward(text: str) -> None:
            self._push(LineOutput(number=request.number, text=text))

        try:
            return await run_line(request.line, self._setup.environment("shell"), self._setup.work, forward)
        except OSError as error:
            forward(f"node {self._a.node} can't run it: {error}\n")
            return FAILED

    def forward(self, output: LineOutput) -> None:
        """Forward what a line of shell has written."""
        if self._remote_exec is not None:
            self._remote_exec.forward(output)

    async def run_remotely(self, connection: socket.socket, request: RunRemotely) -> None:
        """Serve the remote shell."""
        if self._remote_exec is not None:
            await self._remote_exec.serve(connection, request)

    async def join(self, connection: socket.socket, request: JoinRank) -> None:
        """Serve a rank that the spawner has started.

        :raises ValueError: the job has no such rank, or the rank is there already.
        """
        await self._ranks.join(connection, self._setup.rank_spec(request.env), request.pid)
