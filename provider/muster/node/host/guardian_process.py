"""Starts the guardian of a node as a process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from muster.core.paths import NodePaths
from muster.node.host import liveness
from muster.node.host.clean_environment import clean_environment


def guardian_command(node: NodePaths, entry: str) -> list[str]:
    """Return the command of a node's guardian; ``entry`` is the agent's ``start.py``."""
    return [sys.executable, "-I", "-S", entry, "guardian", str(node.root)]


def spawn_guardian(node: NodePaths, argv: list[str], environment: Mapping[str, str], **options: Any) -> int:
    """Start a command that is, or becomes, a node's guardian; its output goes to the node's diagnostics. Return the pid."""
    log = (os.POSIX_SPAWN_OPEN, 1, str(node.diagnostics), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, **options)


def start_guardian(node: NodePaths, entry: str, marker: str) -> None:
    """Start a guardian that outlives this process and its connection."""
    # the shell leaves at once, so the guardian becomes init's child and never our zombie; nothing of ours stays open in it
    argv = ["/bin/sh", "-c", '"$@" &', "sh", *guardian_command(node, entry)]
    os.waitpid(spawn_guardian(node, argv, clean_environment(marker), setsid=True), 0)


def restart_guardian(node: NodePaths, entry: str) -> None:
    """Start a guardian where one has died and nothing is left of it; wait until its pid is written."""
    node.agent.unlink(missing_ok=True)
    node.guardian.unlink(missing_ok=True)
    liveness.expect_birth(node)
    start_guardian(node, entry, liveness.marker_of(str(node.root)))
    wait_for_guardian(node)


def wait_for_guardian(node: NodePaths) -> None:
    """Wait until the guardian's pid is written, or may no longer be expected."""
    deadline = time.monotonic() + liveness.BIRTH_TIME
    while not node.guardian.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
