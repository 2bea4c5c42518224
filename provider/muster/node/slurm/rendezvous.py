"""Rendezvous of a Slurm job's nodes: node 0 claims the run and publishes its address, for which the other nodes wait."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.core.codec import canonical, from_data, to_data
from muster.core.event import Event
from muster.core.paths import JobPaths
from muster.core.retry import Backoff
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.assignment import Assignment, AttemptRecord, loopback_address
from muster.node.event_log import read_end
from muster.node.private_files import replace_file
from muster.node.slurm import claim_chain

LOOPBACK = "127."


class StartRefused(Exception):
    """This start of the job is not wanted. ``harmless``: the run has its end, and Slurm need not record a failure."""

    def __init__(self, reason: str, *, harmless: bool = False) -> None:
        super().__init__(reason)
        self.harmless = harmless


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Addresses of node 0 and of this node; the attempts so far, which only node 0 knows."""

    leader: str
    own: str
    history: tuple[AttemptRecord, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LeaderFile:
    """Address that node 0 publishes, or the reason why it refuses this start."""

    address: str = ""
    refused: str = ""
    harmless: bool = False


def lead(paths: JobPaths, file: Path, template: Assignment, restarts: int) -> Meeting:
    """Claim the attempt, or refuse; then publish the address of node 0.

    :raises StartRefused: another attempt owns the run, or the run has ended.
    """
    try:
        history, notes = own(paths, template, restarts)
    except StartRefused as refusal:
        replace_file(file, canonical(LeaderFile(refused=str(refusal), harmless=refusal.harmless)))
        raise
    address = _leaders_address(template.job_id)
    replace_file(file, canonical(LeaderFile(address=address)))
    return Meeting(leader=address, own=address, history=history, notes=notes)


def follow(file: Path, job_id: str, node: int, limit: float) -> Meeting:
    """Wait until node 0 has published its address.

    :raises StartRefused: node 0 has refused this start, or has published nothing within ``limit`` seconds.
    """
    deadline, backoff = time.monotonic() + limit, Backoff(0.02, 0.5, factor=1.3)
    while (leader := _read(file)) is None:
        if time.monotonic() > deadline:
            raise StartRefused(f"node 0 did not say within {limit:g} s where it is; {file} is awaited: do all nodes see it?")
        time.sleep(backoff.next())
        os.listdir(file.parent)  # over NFS this makes new files be seen
    if leader.refused:
        raise StartRefused(leader.refused, harmless=leader.harmless)
    return Meeting(leader=leader.address, own=_own_address(leader.address, job_id, node))


def _read(file: Path) -> LeaderFile | None:
    try:
        return from_data(LeaderFile, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


# -- who owns the run


def own(paths: JobPaths, template: Assignment, restarts: int) -> tuple[tuple[AttemptRecord, ...], tuple[str, ...]]:
    """Claim the run for this start; a start by Slurm itself becomes the next attempt.

    :raises StartRefused: another attempt owns the run, or the run has ended.
    """
    wanted = template.attempt + restarts
    while True:
        number, entries = claim_chain.next_number(paths), claim_chain.entries(paths)
        if not entries:
            raise StartRefused(f"nobody owns run {template.job_id} any more; it was removed", harmless=True)
        owner = entries[-1]
        if (owner.generation, owner.base) != (template.generation, template.attempt):
            raise StartRefused(
                f"attempt {wanted} of generation {template.generation} does not start: attempt {owner.attempt} of "
                f"generation {owner.generation} owns the run"
            )
        if owner.attempt >= wanted:
            return template.history if not restarts else _records(owner.claim), ()
        before = record(paths, owner.claim)
        _refuse_if_ended(before)
        history = [*owner.claim["history"], to_data(before)]
        claim = {**owner.claim, "attempt": wanted, "history": history, "submitted": time.time()}
        if claim_chain.append(paths, number, replace(owner, claim=claim)):
            return _records(claim), (_restart_note(before),)


def record(paths: JobPaths, claim: dict[str, Any]) -> AttemptRecord:
    """Return how the claimed attempt went; an attempt without an END event has failed."""
    end = read_end(paths.node(claim["generation"], claim["attempt"], 0).events)
    known = AttemptRecord(attempt=claim["attempt"], started=claim["submitted"], state=RunState.FAILED.value)
    if end is None:
        return known
    return replace(known, ended=end.time, state=end.data["state"], verdict=end.data["verdict"])


def _records(claim: dict[str, Any]) -> tuple[AttemptRecord, ...]:
    return tuple(from_data(AttemptRecord, data) for data in claim["history"])


def _refuse_if_ended(before: AttemptRecord) -> None:
    """Refuse to follow an attempt that has decided the run: one that neither its nodes nor Slurm ended."""
    cause = (before.verdict or {}).get("cause")
    if before.state == RunState.COMPLETED.value or (before.verdict and cause != Cause.NODE.value):
        raise StartRefused(f"the run has ended with attempt {before.attempt} ({before.state}); submit it anew", harmless=True)


def _restart_note(before: AttemptRecord) -> str:
    reason = (before.verdict or {}).get("detail") or "it ended without a word"
    return f"Slurm has started the job again after attempt {before.attempt}: {reason}"


def is_final(end: Event) -> bool:
    """Return whether an END stays as it is, whatever Slurm does; after the loss of a node Slurm may start the job again."""
    return (end.data["verdict"] or {}).get("cause") != Cause.NODE.value


def first_start(file: Path, now: float) -> float:
    """Return when the generation's first node started: now, unless another one was before."""
    scratch = file.with_name(f".new-{os.urandom(8).hex()}")
    scratch.write_text(f"{now}\n", encoding="ascii")
    try:
        os.link(scratch, file)
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
    return float(file.read_text(encoding="ascii"))


# -- addresses


def _leaders_address(job_id: str) -> str:
    """Return node 0's address: the one that Slurm's own messages take to it, else that of its name."""
    for name in (os.environ.get("SLURM_LAUNCH_NODE_IPADDR", ""), os.environ.get("SLURMD_NODENAME", ""), socket.gethostname()):
        address = _address(name)
        if address.startswith(LOOPBACK):
            return loopback_address(job_id, 0)
        if address and _is_local(address):
            return address
    return socket.gethostname()


def _own_address(leader: str, job_id: str, node: int) -> str:
    """Return the address of this node on the way to node 0."""
    if leader.startswith(LOOPBACK):
        return loopback_address(job_id, node)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((leader, 9))  # nothing is sent
        return str(probe.getsockname()[0])


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name) if name else ""
    except OSError:
        return ""


def _is_local(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
