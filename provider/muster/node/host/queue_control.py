"""The keeper: an inventory's claims and queue, kept on its first host; one JSON request in, one answer out, under one lock.

An entry of the queue has ``number`` (its place in the order), ``job``, ``generation``, ``attempt``; what it asks for: ``nodes``
and for each of them ``slots`` and ``gpus``, no slots if it only stores what lies at its ``places``; ``excluded`` hosts with the
reason; ``state``; ``places`` (host, gpus, node folder) once it holds some, ``held`` hosts that it waits for; ``parcel``, the
folder with what is to be launched; ``launch``, how often that was begun, ``launcher``, who is at it, and ``until``, when that
one counts as dead, ``refused``, who gave it back last; ``over``, when no agent of it can live any more; ``seen``, when somebody
last asked for it. An entry that has ended lies beside the claim with its ``end``. Times are this host's, in seconds since the
epoch, but for ``over``, which is of whoever launched it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from muster.core.attempt import AttemptId
from muster.core.paths import HostPaths
from muster.node.host import gang_scheduler
from muster.node.host.gang_scheduler import GRANTED, LAUNCHED, STARTING, WAITING, Entry

LEASE = 45.0  # seconds after which a launcher that says nothing counts as dead


def main(arguments: list[str]) -> int:
    """Answer the request on the standard input; the root folder is its first argument."""
    request = json.load(sys.stdin)
    server = QueueServer(HostPaths.of(arguments[0]))
    with server.locked():
        answer = server.answer(request)
    json.dump(answer, sys.stdout)
    return 0


class QueueServer:
    """Everything is read from the disk when it is asked for, and written before it is answered."""

    def __init__(self, paths: HostPaths, clock: Callable[[], float] = time.time) -> None:
        self._paths = paths
        self._now = clock()
        self._queue: dict[str, Any] = {"next": 1, "entries": []}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the one lock; the kernel frees it if we die."""
        os.makedirs(self._paths.root, mode=0o700, exist_ok=True)
        descriptor = os.open(self._paths.queue_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked by its name."""
        self._queue = _read(str(self._paths.queue)) or self._queue
        before = json.dumps(self._queue)
        fields = {name: value for name, value in request.items() if name != "do"}
        answer: dict[str, Any] = getattr(self, f"do_{request['do']}")(**fields)
        if json.dumps(self._queue) != before:
            _write(str(self._paths.queue), self._queue)
        return answer

    # -- looking

    def do_look(self, jobs: list[list[Any]]) -> dict[str, Any]:
        """Give claim, entry and end of each job: of ``[job, generation, attempt]``, generation 0 for the claimed attempt."""
        return {"found": [self._look(*job) for job in jobs]}

    def _look(self, job: str, generation: int, attempt: int) -> dict[str, Any]:
        claim = _read(self._claim_file(job))
        if claim is not None and not generation:
            generation, attempt = claim["generation"], claim["attempt"]
        entry = self._entry(AttemptId(job, generation, attempt))
        record = _read(self._record_file(AttemptId(job, generation, attempt))) or {}
        return {"claim": claim, "entry": entry or record.get("entry"), "live": entry is not None, "end": record.get("end")}

    # -- claims

    def do_claim(
        self, job: str, expected: list[int] | None, claim: dict[str, Any], wish: dict[str, Any], hosts: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Claim a job's next attempt if it is still as expected, and have it wait for its turn, which may have come.

        One that is asked again, since the connection was lost before it was answered, is answered again.
        """
        owner = _read(self._claim_file(job))
        ours = self._look(job, claim["generation"], claim["attempt"])["entry"] if owner == claim else None
        if ours is not None and ours["bundle"] == wish["bundle"]:
            return {"taken": True, "entry": ours}
        if (owner and [owner["generation"], owner["attempt"]]) != expected:
            return {"taken": False}
        entry: Entry = {
            **{"job": job, "generation": claim["generation"], "attempt": claim["attempt"], "number": self._queue["next"]},
            **{"state": WAITING, "allocations": [], "held": [], "excluded": {}, "since": self._now, "seen": self._now},
            **{"launch": 0, "launcher": "", "until": 0.0},
            **wish,
        }
        self._queue["next"] += 1
        self._queue["entries"].append(entry)
        _write(self._claim_file(job), claim)
        gang_scheduler.schedule(self._queue["entries"], hosts, self._now)
        return {"taken": True, "entry": entry}

    def do_withdraw(self, job: str, generation: int, attempt: int, end: dict[str, Any], launcher: str = "") -> dict[str, Any]:
        """End an attempt that nobody has begun to launch, or that its launcher ends; says whether, also when asked again."""
        entry = self._entry(AttemptId(job, generation, attempt))
        if entry is None:
            record = _read(self._record_file(AttemptId(job, generation, attempt)))
            return {"withdrawn": record is not None and record["end"] == end, "leased": False}
        leased, ours = entry["until"] >= self._now, bool(launcher) and entry["launcher"] == launcher
        if not ours and (leased or entry["state"] in (STARTING, LAUNCHED)):
            return {"withdrawn": False, "leased": leased}
        self._leave(entry, end)
        return {"withdrawn": True, "leased": False}

    def do_attempts(self, job: str) -> dict[str, Any]:
        """Give every entry of a job, of all its attempts."""
        ended = [(_read(file) or {}).get("entry") for file in self._record_files(job)]
        return {"entries": [*filter(None, ended), *(e for e in self._queue["entries"] if e["job"] == job)]}

    def do_forget(self, job: str) -> dict[str, Any]:
        """Remove all that is known of a job."""
        self._queue["entries"] = [entry for entry in self._queue["entries"] if entry["job"] != job]
        shutil.rmtree(self._paths.job(job).job, ignore_errors=True)
        return {}

    # -- the queue

    def do_turn(self, hosts: list[dict[str, Any]], wanted: list[list[Any]], settled: list[list[Any]]) -> dict[str, Any]:
        """Note who is waited for and who has ended, grant what can be granted, and give the queue."""
        for key in wanted:
            entry = self._entry(AttemptId(*key))
            if entry is not None:
                entry["seen"] = self._now
        for key in settled:
            entry = self._entry(AttemptId(*key))
            if entry is not None and self._may_leave(entry):
                self._leave(entry, None)
        gang_scheduler.schedule(self._queue["entries"], hosts, self._now)
        return {"entries": self._queue["entries"], "now": self._now}

    def _may_leave(self, entry: Entry) -> bool:
        """Whether an attempt of which nothing is left is over; one whose launcher died is launched again if anyone wants it."""
        wanted = gang_scheduler.is_wanted(entry, self._now) and self._owns(entry)
        died = entry["state"] == STARTING and entry["until"] < self._now and not wanted
        return died or entry["state"] == LAUNCHED

    # -- launching: one at a time, by whoever holds the lease

    def do_take(self, job: str, generation: int, attempt: int, launcher: str) -> dict[str, Any]:
        """Begin to launch an attempt whose turn has come, unless somebody is at it, or another attempt owns the job."""
        entry = self._entry(AttemptId(job, generation, attempt))
        if entry is None or entry["state"] not in (GRANTED, STARTING) or not self._owns(entry):
            return {"taken": False, "entry": entry}
        if entry["launcher"] != launcher or not entry["until"]:  # else it is asked again, the connection having been lost
            if entry["until"] >= self._now:
                return {"taken": False, "entry": entry}
            entry.update(launcher=launcher, launch=entry["launch"] + 1, until=self._now + LEASE)
        return {"taken": True, "entry": entry, "claim": _read(self._claim_file(job)), "waited": self._now - entry["since"]}

    def do_renew(self, job: str, generation: int, attempt: int, launcher: str) -> dict[str, Any]:
        """Go on launching; false when somebody else took over."""
        entry = self._leased(job, generation, attempt, launcher)
        if entry is not None:
            entry["until"] = self._now + LEASE
        return {"held": entry is not None}

    def do_starting(  # noqa: PLR0917
        self, job: str, generation: int, attempt: int, launcher: str, folders: list[str], over: float = 0.0
    ) -> dict[str, Any]:
        """Note the node folders before the first agent starts; from now on agents may live on the hosts, until ``over``."""
        entry = self._leased(job, generation, attempt, launcher)
        if entry is None or not self._owns(entry):
            return {"held": False}
        for place, folder in zip(entry["allocations"], folders, strict=True):
            place["folder"] = folder
        entry.update(state=STARTING, until=self._now + LEASE, over=over)
        return {"held": True}

    def do_started(self, job: str, generation: int, attempt: int, launcher: str) -> dict[str, Any]:
        """Note that all agents have started; what was stored for launching goes."""
        entry = self._leased(job, generation, attempt, launcher)
        if entry is None:
            return {"held": False}
        entry.update(state=LAUNCHED, until=0.0)
        shutil.rmtree(entry["bundle"], ignore_errors=True)
        return {"held": True}

    def do_refuse(
        self, *, job: str, generation: int, attempt: int, launcher: str, bad: dict[str, str], hosts: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Give back what a launch could not use, because of ``bad`` hosts; the gang keeps its place in the order."""
        entry = self._entry(AttemptId(job, generation, attempt))
        again = entry is not None and entry.get("refused") == launcher and not entry["launcher"]
        if entry is None or not (again or entry["launcher"] == launcher):
            return {"held": False, "entry": entry}
        if not again:
            self._give_back(entry, bad)
            entry.update(until=0.0, launcher="", refused=launcher)
            gang_scheduler.schedule(self._queue["entries"], hosts, self._now)
        return {
            "held": True,
            "entry": entry,
            "able": [host for host in gang_scheduler.could_ever(entry, hosts) if host not in bad],
        }

    @staticmethod
    def _give_back(entry: Entry, bad: dict[str, str]) -> None:
        if gang_scheduler.is_fixed(entry):
            entry.update(state=GRANTED)
        else:
            entry.update(state=WAITING, allocations=[], held=[], excluded={**entry["excluded"], **bad})

    # -- small things

    def _entry(self, wanted: AttemptId) -> Entry | None:
        return next((entry for entry in self._queue["entries"] if _id(entry) == wanted), None)

    def _owns(self, entry: Entry) -> bool:
        """Whether an attempt is the one that the job's claim names."""
        claim = _read(self._claim_file(entry["job"])) or {}
        return (claim.get("generation"), claim.get("attempt")) == (entry["generation"], entry["attempt"])

    def _leased(self, job: str, generation: int, attempt: int, launcher: str) -> Entry | None:
        entry = self._entry(AttemptId(job, generation, attempt))
        return entry if entry is not None and entry["launcher"] == launcher else None

    def _leave(self, entry: Entry, end: dict[str, Any] | None) -> None:
        self._queue["entries"].remove(entry)
        shutil.rmtree(entry["bundle"], ignore_errors=True)
        _write(self._record_file(_id(entry)), {"entry": entry, "end": end})

    def _claim_file(self, job: str) -> str:
        return str(self._paths.job(job).claim)

    def _record_file(self, one: AttemptId) -> str:
        return str(self._paths.job(one.job_id).job / f"{one.folder}.json")

    def _record_files(self, job: str) -> list[str]:
        return sorted(str(file) for file in self._paths.job(job).job.glob("g*-a*.json"))


def _id(entry: Entry) -> AttemptId:
    return AttemptId(entry["job"], entry["generation"], entry["attempt"])


def _read(file: str) -> dict[str, Any] | None:
    try:
        with open(file, encoding="utf-8") as text:
            data: dict[str, Any] = json.load(text)
    except FileNotFoundError:
        return None
    return data


def _write(file: str, data: dict[str, Any]) -> None:
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    with open(file + ".new", "w", encoding="utf-8", opener=_private) as text:
        json.dump(data, text, sort_keys=True, separators=(",", ":"))
    os.replace(file + ".new", file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
