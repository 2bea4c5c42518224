"""NodeSpawner: a node's part where a spawner (mpirun, torchrun) starts the ranks: the lines it has run, the ranks it brings."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings
from muster.node.assignment import Assignment
from muster.node.ranks.spawner_setup import SpawnerSetup
from muster.node.ranks.supervisor import RankSupervisor

if TYPE_CHECKING:
    from muster.node.ranks.remote_exec import Ask, RemoteExec

Push = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Node:
    """What is to be known of the node: its number of so many, and the ranks' folder."""

    number: int
    nodes: int
    work: str


class NodeSpawner:
    """One node's spawner and what it brings about, from the start of the ranks to their end.

    ``ask(node, do, **fields)`` asks any node, only on node 0; ``push(do, **fields)`` tells the leader.
    """

    def __init__(self, side: SpawnerSetup, ranks: RankSupervisor, node: Node, *, ask: Ask | None, push: Push) -> None:
        self._side = side
        self._ranks = ranks
        self._node = node
        self._ask = ask
        self._push = push
        self._shells: RemoteExec | None = None

    @property
    def mark(self) -> str:
        """The variable that all tools of the spawner carry."""
        return self._side.mark

    def start(self) -> None:
        """Start the spawner; every node is ready for its ranks. On node 0 only, unless each node has one."""
        if not self._side.per_node:
            from muster.node.ranks.remote_exec import RemoteExec

            assert self._ask is not None
            self._shells = RemoteExec(self._node.nodes, self._ask)
        self._ranks.start(self._side.spawner_spec())

    # -- lines of shell

    async def run_shell(self, number: int, line: str) -> int:
        """Run a line of shell for the spawner; gives its exit code."""
        from muster.node.ranks.remote_exec import FAILED, run_line

        def tell(text: str) -> None:
            self._push("shell_says", number=number, text=text)

        try:
            return await run_line(line, self._side.environment("shell"), self._node.work, tell)
        except OSError as error:
            tell(f"node {self._node.number} can't run it: {error}\n")
            return FAILED

    def show_shell(self, number: int, text: str) -> None:
        """Take what a line of shell has written."""
        if self._shells is not None:
            self._shells.show(number, text)

    async def serve_shell(self, connection: socket.socket, wish: dict[str, str]) -> None:
        """Serve the remote shell."""
        if self._shells is not None:
            await self._shells.serve(connection, wish)

    # -- ranks

    async def join(self, connection: socket.socket, told: dict[str, Any]) -> None:
        """Let a rank in that the spawner has started."""
        await self._ranks.join(connection, self._side.rank_spec(told["env"]), told["pid"])


def spawner_setup(a: Assignment, paths: NodePaths, bindings: Bindings, secrets: Mapping[str, str]) -> SpawnerSetup:
    """Give a node's side of its spawner laid out: of its own one, or of node 0's for all."""
    spawner = a.plan.nodes[a.node].starter or a.plan.spawner
    assert spawner is not None
    side = SpawnerSetup(a, paths, spawner, bindings, secrets)
    side.lay_out()
    return side
