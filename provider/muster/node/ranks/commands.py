"""The commands about a node's ranks: at its control socket from shims and remote shells, over the mesh for the spawner."""

from __future__ import annotations

from dataclasses import dataclass

from muster.node.rpc import Request

# -- at the control socket; their senders, shim.py and remote_shell.py, import nothing of Muster


@dataclass(frozen=True, kw_only=True)
class ServeRank(Request[None]):
    """A shim that the agent started asks what to run."""

    rank: int


@dataclass(frozen=True, kw_only=True)
class JoinRank(Request[None]):
    """A shim that a spawner started asks what to run; ``env`` is what the spawner gave it."""

    pid: int
    env: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class RunRemotely(Request[None]):
    """A spawner's remote shell asks for a line of shell to be run on another node."""

    host: str
    line: str


# -- over the mesh


@dataclass(frozen=True, kw_only=True)
class RunLine(Request[int]):
    """Run a line of shell on this node; the answer is its exit code."""

    number: int
    line: str


@dataclass(frozen=True, kw_only=True)
class LineOutput(Request[None]):
    """Output of a shell command line."""

    number: int
    text: str
