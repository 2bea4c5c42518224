"""Nodes of this machine: their folders are laid out, their agents started, looked at and ended here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from muster.core.codec import canonical
from muster.core.errors import TargetError
from muster.core.event import Event, last_end
from muster.core.paths import JobPaths, NodePaths
from muster.core.verdict import Cause
from muster.node import processes
from muster.node.assignment import Assignment
from muster.node.host import node_folder
from muster.node.host.clean_environment import clean_environment
from muster.targets.claim import Claim
from muster.targets.contract import Submission

BIRTH_TIME = 15.0  # seconds that a guardian may take to write down its pid
TAIL_READ = 1 << 20  # bytes from the end of an event log in which its last event is looked for


def loopback_address(job: str, node: int) -> str:
    """Give a node's own address in 127/8, so that jobs of one machine don't meet on the same ports."""
    seed = hashlib.sha256(job.encode()).digest()
    return f"127.{1 + seed[0] % 254}.{seed[1]}.{1 + node % 254}"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def lay_out(node: NodePaths, submission: Submission, pem: bytes) -> None:
    """Make a node's folder, with what only its owner may read."""
    node.root.mkdir(parents=True, mode=0o700)
    write_private(node.certificate, pem)
    write_private(node.access, canonical(submission.access))
    if submission.secrets:
        write_private(node.secrets, json.dumps(submission.secrets).encode())


def take_over(paths: JobPaths, claim: Claim, nodes: list[NodePaths]) -> None:
    """Move what the ranks left, in whatever attempt it is, into the one that commits it."""
    for node, here in enumerate(nodes):
        try:
            node_folder.take_outputs((paths.node(claim.generation, n, node) for n in range(claim.attempt - 1, 0, -1)), here)
        except (node_folder.OutputsGone, OSError) as error:
            left = f"what node {node} of run {claim.job_id} left can't be had: {error}"
            raise TargetError(f"{left}; it can't be committed, clear the task to train anew") from error


def make_work(node: NodePaths, archive: Path | None) -> None:
    """Make what ranks start with."""
    for folder in (node.outputs, node.logs, node.checkpoints):
        folder.mkdir(parents=True)
    node.ranks.mkdir()
    if archive is not None:
        from muster.packaging.code import snapshot

        snapshot.unpack(archive, node.work)


def start_agent(paths: NodePaths, assignment: Assignment, entry: Path) -> None:
    """Start a node's guardian, which starts the agent; both live on without us."""
    write_private(paths.assignment, canonical(assignment))
    guardian = [sys.executable, "-I", "-S", str(entry), "guardian", str(paths.root)]
    # the shell leaves at once, so the guardian becomes init's child and never our zombie
    argv = ["/bin/sh", "-c", '"$@" &', "sh", *guardian]
    log = (os.POSIX_SPAWN_OPEN, 1, str(paths.diagnostics), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    actions = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), log, (os.POSIX_SPAWN_DUP2, 1, 2)]
    shell = os.posix_spawn("/bin/sh", argv, clean_environment(assignment.id.marker), file_actions=actions, setsid=True)
    os.waitpid(shell, 0)


def start_again(paths: NodePaths, entry: Path) -> None:
    """Start the agent of a lost node again, with what it was told before; waits until it has been born."""
    assignment = Assignment.read(paths.assignment)
    _end_leftovers(assignment, paths.root)
    paths.agent.unlink(missing_ok=True)
    paths.guardian.unlink(missing_ok=True)
    start_agent(paths, assignment, entry)
    give_up = time.monotonic() + BIRTH_TIME
    while not paths.guardian.exists() and time.monotonic() < give_up:
        time.sleep(0.01)


def _end_leftovers(assignment: Assignment, folder: Path) -> None:
    """Kill what ranks of a node have left behind, where agent and guardian died at once."""
    of_job = set(processes.marked(f"MUSTER_JOB={assignment.id.marker}"))
    of_node = {*processes.marked(f"MUSTER_NODE={assignment.node}"), *processes.marked(f"MUSTER_SHIM_FOLDER={folder}")}
    processes.send_signal(of_job & of_node, signal.SIGKILL)


def living(paths: NodePaths) -> list[int]:
    """Give the pids of a node's guardian and agent, those that live."""
    return [pid for file in (paths.guardian, paths.agent) if (pid := _living_pid(file))]


def _living_pid(file: Path) -> int:
    try:
        born = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return 0
    pid, start = int(born["pid"]), int(born["start"])
    return pid if start and processes.start_time(pid) == start else 0


def alive(paths: NodePaths, submitted: float) -> bool:
    """Whether a node's guardian or agent lives, or may still be about to be born."""
    if paths.guardian.exists():
        return bool(living(paths))
    return paths.assignment.exists() and time.time() < submitted + BIRTH_TIME


def end_event(paths: NodePaths) -> Event | None:
    """Give the END event of a leader's log, None if it has not been written."""
    try:
        with paths.events.open("rb") as file:
            file.seek(max(0, paths.events.stat().st_size - TAIL_READ))
            return last_end(file.read())
    except FileNotFoundError:
        return None


def end_agents(nodes: list[NodePaths], marker: str, submitted: float, reason: str, patience: float) -> bool:
    """Have all agents end their ranks and leave; what outlives ``patience`` seconds is killed. True when nothing is left."""
    wish = json.dumps({"cause": Cause.CANCEL.value, "reason": reason}).encode()
    for paths in nodes:
        with contextlib.suppress(OSError):  # a full disk takes no reason; they leave without one too
            write_private(paths.cancel, wish)
        processes.send_signal(living(paths), signal.SIGTERM)
    give_up = time.monotonic() + patience
    while any(alive(paths, submitted) for paths in nodes) and time.monotonic() < give_up:
        time.sleep(0.02)
    for paths in nodes:
        processes.send_signal(living(paths), signal.SIGKILL)
    return sweep(marker)


def sweep(marker: str) -> bool:
    """Kill every process that carries the attempt's marker: what is left when agent and guardian died at once."""
    entry, limit = f"MUSTER_JOB={marker}", time.monotonic() + 10.0
    while (left := processes.marked(entry)) and time.monotonic() < limit:
        processes.send_signal(left, signal.SIGKILL)
        time.sleep(0.02)
    return not left
