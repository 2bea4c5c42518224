"""How the nodes of a Slurm job meet: node 0 makes sure that it owns the run and says where it is; the others wait for it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.core.codec import from_data, to_data
from muster.core.paths import JobPaths, NodePaths
from muster.core.retry import Backoff
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.node.assignment import Assignment, AttemptRecord
from muster.node.slurm import claim_chain

TAIL_READ = 1 << 20  # bytes from the end of an event log in which its last events are looked for
END_MARK = b'"k": "end"'
LOOPBACK = "127."


class StartRefused(Exception):
    """This start of the job is not wanted. ``harmless``: the run has its end, and the engine need not hear of a failure."""

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


def lead(paths: JobPaths, where: Path, template: Assignment, restarts: int) -> Meeting:
    """Own the attempt, or refuse; then tell the others where node 0 is.

    :raises Refused: another attempt owns the run, or it has ended.
    """
    try:
        history, notes = own(paths, template, restarts)
    except StartRefused as refusal:
        _publish(where, {"refused": str(refusal), "harmless": refusal.harmless})
        raise
    address = _leaders_address(template.job_id)
    _publish(where, {"leader": address})
    return Meeting(leader=address, own=address, history=history, notes=notes)


def follow(where: Path, job_id: str, node: int, limit: float) -> Meeting:
    """Wait until node 0 has said where it is.

    :raises Refused: it has refused this start, or said nothing within ``limit`` seconds.
    """
    give_up, backoff = time.monotonic() + limit, Backoff(0.02, 0.5, factor=1.3)
    while (told := _read(where)) is None:
        if time.monotonic() > give_up:
            raise StartRefused(f"node 0 did not say within {limit:g} s where it is; {where} is awaited: do all nodes see it?")
        time.sleep(backoff.next())
        os.listdir(where.parent)  # over NFS this makes new files be seen
    if "refused" in told:
        raise StartRefused(told["refused"], harmless=told["harmless"])
    return Meeting(leader=told["leader"], own=_own_address(told["leader"], job_id, node))


# -- who owns the run


def own(paths: JobPaths, template: Assignment, restarts: int) -> tuple[tuple[AttemptRecord, ...], tuple[str, ...]]:
    """Make sure that this start owns the run; one that the engine has started again becomes the next attempt by it."""
    wanted = template.attempt + restarts
    while True:
        number, entries = claim_chain.next_number(paths), claim_chain.entries(paths)
        if not entries:
            raise StartRefused(f"nobody owns run {template.job_id} any more; it was removed", harmless=True)
        entry: dict[str, Any] = entries[-1]
        claim: dict[str, Any] = entry["claim"]
        if (claim["generation"], entry["base"]) != (template.generation, template.attempt):
            raise StartRefused(
                f"attempt {wanted} of generation {template.generation} does not start: attempt {claim['attempt']} of "
                f"generation {claim['generation']} owns the run"
            )
        if claim["attempt"] >= wanted:
            return template.history if not restarts else _records(claim), ()
        before = record(paths, claim)
        _refuse_if_ended(before)
        history = [*claim["history"], to_data(before)]
        following = {**claim, "attempt": wanted, "history": history, "submitted": time.time()}
        if claim_chain.take(paths, number, {**entry, "claim": following}):
            return _records(following), (_why_again(before),)


def record(paths: JobPaths, claim: dict[str, Any]) -> AttemptRecord:
    """Give how the claimed attempt went; one that ended without a word has failed."""
    end = end_of(paths.node(claim["generation"], claim["attempt"], 0))
    known: dict[str, Any] = {"attempt": claim["attempt"], "started": claim["submitted"], "state": RunState.FAILED.value}
    if end is not None:
        known.update(ended=end["t"], state=end["state"], verdict=end["verdict"])
    return from_data(AttemptRecord, known)


def _records(claim: dict[str, Any]) -> tuple[AttemptRecord, ...]:
    return tuple(from_data(AttemptRecord, data) for data in claim["history"])


def _refuse_if_ended(before: AttemptRecord) -> None:
    """An attempt that was not ended by its nodes or the engine has decided the run, whatever the engine starts again."""
    cause = (before.verdict or {}).get("cause")
    if before.state == RunState.COMPLETED.value or (before.verdict and cause != Cause.NODE.value):
        raise StartRefused(f"the run has ended with attempt {before.attempt} ({before.state}); submit it anew", harmless=True)


def _why_again(before: AttemptRecord) -> str:
    said = (before.verdict or {}).get("detail") or "it ended without a word"
    return f"Slurm has started the job again after attempt {before.attempt}: {said}"


def end_of(node: NodePaths) -> dict[str, Any] | None:
    """Give the last END event in a leader's log as plain data, None if it has not been written."""
    try:
        with node.events.open("rb") as file:
            file.seek(max(0, node.events.stat().st_size - TAIL_READ))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if END_MARK in line:
            end: dict[str, Any] = json.loads(line)
            return end
    return None


def decides(end: Mapping[str, Any]) -> bool:
    """Whether an END stays what it is, whatever the engine does; one for the loss of a node may be followed by a restart."""
    return (end["verdict"] or {}).get("cause") != Cause.NODE.value


def first_start(file: Path, now: float) -> float:
    """Give when the generation's first node started, which is now unless another one was before."""
    scratch = file.with_name(f".new-{os.urandom(8).hex()}")
    scratch.write_text(f"{now}\n", encoding="ascii")
    try:
        os.link(scratch, file)
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
    return float(file.read_text(encoding="ascii"))


# -- where everybody is


def _publish(where: Path, told: dict[str, Any]) -> None:
    scratch = where.with_name(f".new-{os.urandom(8).hex()}")
    scratch.write_text(json.dumps(told), encoding="utf-8")
    os.replace(scratch, where)


def _read(where: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return told


def _leaders_address(job_id: str) -> str:
    """Give node 0's address: the one that Slurm's own messages take to it, else that of its name."""
    for name in (os.environ.get("SLURM_LAUNCH_NODE_IPADDR", ""), os.environ.get("SLURMD_NODENAME", ""), socket.gethostname()):
        address = _address(name)
        if address.startswith(LOOPBACK):
            return _shared_machine(job_id, 0)
        if address and _is_ours(address):
            return address
    return socket.gethostname()


def _own_address(leader: str, job_id: str, node: int) -> str:
    """Give the address of this node on the way to node 0."""
    if leader.startswith(LOOPBACK):
        return _shared_machine(job_id, node)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((leader, 9))  # nothing is sent
        return str(probe.getsockname()[0])


def _shared_machine(job_id: str, node: int) -> str:
    """Give a node's own address where all are on one machine."""
    seed = hashlib.sha256(job_id.encode()).digest()
    return f"127.{1 + seed[0] % 254}.{seed[1]}.{1 + node % 254}"


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name) if name else ""
    except OSError:
        return ""


def _is_ours(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
