"""The spawner's side of a node: what a program that starts the ranks itself, and all that it starts here, is told."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings, resolve
from muster.core.plan import REMOTE_SHELL, RankPlan, Spawner
from muster.node.assignment import Assignment
from muster.node.ranks.environment import inherited, rank_spec, search_path
from muster.node.ranks.supervisor import SPAWNER, RankSpec

FOLDER = "MUSTER_SHIM_FOLDER"  # all tools carry it, and no rank does
_PYTHON, _SHIM = "MUSTER_SHIM_PYTHON", "MUSTER_SHIM"
# resolved on the very node, so folders and interpreters may differ between nodes, and hold any character
SHIM_COMMAND = ("/bin/sh", "-c", f'exec "${_PYTHON}" -I -S "${_SHIM}" "${FOLDER}"')
# what a batch system told the agent is not for the spawner: it would start its ranks over that system, past the agents
BATCH_SYSTEMS = ("SLURM_", "SBATCH_", "SRUN_", "PBS_", "LSB_", "SGE_", "PE_", "OAR_", "FLUX_")


class SpawnerSetup:
    """One node's part in a plan with a spawner; made when the ranks are to be started. ``mark``: a variable of all tools."""

    mark = FOLDER

    def __init__(
        self, assignment: Assignment, paths: NodePaths, spawner: Spawner, bindings: Bindings, secrets: Mapping[str, str]
    ) -> None:
        self._a = assignment
        self._paths = paths
        self._spawner = spawner
        self._bindings = bindings
        self._secrets = secrets
        self._ranks = {rank.rank: rank for node in assignment.plan.nodes for rank in node.ranks}

    @property
    def per_node(self) -> bool:
        """Whether it starts this node's ranks only."""
        return self._spawner.per_node

    def lay_out(self) -> None:
        """Write the remote shell; tools of other nodes than 0 don't use it, but Open MPI 4's look whether it is there."""
        if self.per_node:
            return
        program = self._paths.tools / REMOTE_SHELL
        client = Path(__file__).with_name("remote_shell.py")
        words = [sys.executable, "-I", "-S", str(client), str(self._paths.root)]
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8", errors="surrogateescape")
        program.chmod(0o700)

    def spawner_spec(self) -> RankSpec:
        """Give the spawner ready to run; node 0 only, unless each node has one."""
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
        """Give the variables of the spawner and of the lines that it has run here; each has a scratch folder of its own.

        Those that several tools of one machine share are a race between their beginnings and ends.
        """
        folder = self._paths.tools / scratch
        folder.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in inherited(self._a).items() if not name.startswith(BATCH_SYSTEMS)}
        own = {name: value for name, text in self._spawner.env if (value := resolve(text, self._bindings))}
        shim = {_PYTHON: sys.executable, _SHIM: str(Path(__file__).with_name("shim.py")), FOLDER: str(self._paths.root)}
        path = f"{self._paths.tools}{os.pathsep}{search_path(self._a.plan, self._a.interpreter)}"
        return {**clean, **dict(self._a.plan.env), **own, **shim, "PATH": path, "TMPDIR": str(folder)}

    def rank_spec(self, told: Mapping[str, str]) -> RankSpec:
        """Give the rank that a shim is, by the environment that the spawner gave it.

        :raises ValueError: the job has no such rank.
        """
        if self.per_node:
            return self._own_rank(told)
        rank = self._ranks.get(int(told.get(self._spawner.rank_variable, SPAWNER)))
        if rank is None:
            raise ValueError("a process that is no rank of this job")
        landed = dataclasses.replace(rank, local_rank=int(told.get(self._spawner.local_rank_variable, rank.local_rank)))
        return self._spec(landed, {name: told[name] for name in self._kept(told)})

    def _own_rank(self, told: Mapping[str, str]) -> RankSpec:
        """Give the rank of this node that has the local rank it was told; its number and how many there are may be new."""
        local_rank = int(told.get(self._spawner.local_rank_variable, SPAWNER))
        known = {rank.local_rank: rank for rank in self._a.plan.nodes[self._a.node].ranks}
        if local_rank not in known:
            raise ValueError("a process that is no rank of this node")
        identity = {
            "MUSTER_RANK": told[self._spawner.rank_variable],
            "MUSTER_WORLD_SIZE": told[self._spawner.world_size_variable],
        }
        spec = self._spec(known[local_rank], {name: told[name] for name in self._kept(told)}, identity)
        return dataclasses.replace(spec, number=int(told[self._spawner.rank_variable]))

    def _spec(self, rank: RankPlan, kept: Mapping[str, str], told: Mapping[str, str] = MappingProxyType({})) -> RankSpec:
        return rank_spec(self._a, self._paths, rank, self._bindings, self._secrets, kept=kept, told=told)

    def _kept(self, told: Iterable[str]) -> list[str]:
        return [name for name in told if name.startswith(self._spawner.keeps)]
