"""Clusters: what many nodes cost to start and to end, and hundreds of deferred jobs to follow."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import seaweedfs
from benchmarks import processes
from benchmarks.deferred import deferred
from benchmarks.ours import BUCKET, KEYS
from benchmarks.peers import ROOT, BenchError
from benchmarks.report import Goal, Row, row
from benchmarks.rounds import in_turn

if TYPE_CHECKING:
    from muster.core.handle import JobHandle
    from muster.core.store_access import StoreAccess
    from muster.targets.local.target import LocalTarget

NODES = (1, 4, 16, 64)
STARTS = tuple(f"start_{nodes}" for nodes in NODES)
WALL = "start_64_wall"
ROUNDS = 5
TEARDOWN_NODES = 16
TEARDOWNS = 20
DEFERRED = ("deferred_200", "deferred_200_latest", "deferred_200_memory", "deferred_200_connections", "deferred_200_lost")
ROWS = (*STARTS, WALL, *DEFERRED, "teardown_16")
GOALS = {
    "start_64": Goal(at_most=1.2),
    WALL: Goal(at_most=1.3),
    "deferred_200": Goal(at_most=100, of="ours"),
    "deferred_200_latest": Goal(at_most=1.0, of="ours"),
    "deferred_200_memory": Goal(at_most=1.0, of="ours"),
    "deferred_200_connections": Goal(at_most=1, of="ours"),
    "deferred_200_lost": Goal(at_most=0, of="ours"),
    "teardown_16": Goal(at_most=1.0, of="ours"),
}
CANCEL = "measured"
# the ranks' program: it is started, and waits until it is ended
WAITING = ("sleep", "600")


def measure(wanted: Sequence[str]) -> list[Row]:
    """Measure the wanted rows; the store is there before anything is timed."""
    parent = ROOT / ".muster" / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="clusters-", dir=parent))
    rows: list[Row] = []
    try:
        with seaweedfs.server(scratch / "store", BUCKET, *KEYS.values()) as endpoint:
            bench = _Nodes(folder=scratch, endpoint=endpoint)
            if {*STARTS, WALL} & {*wanted}:
                rows += bench.starts()
            if "teardown_16" in wanted:
                rows.append(bench.teardown())
        if {*DEFERRED} & {*wanted}:
            rows += deferred(scratch / "deferred")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted((r for r in rows if r.row in wanted), key=lambda r: ROWS.index(r.row))


@dataclass(frozen=True, kw_only=True)
class _Nodes:
    """Nodes of this machine, each an agent with an address of its own; all of them share its cores."""

    folder: Path
    endpoint: str

    def starts(self) -> list[Row]:
        """Rows of processor seconds per node, each beside a single node's, and of the wall time of the largest gang."""
        spans = in_turn([lambda nodes=nodes: self._start(nodes) for nodes in NODES], ROUNDS)  # type: ignore[misc]
        each = [[span.cpu / nodes for span in of] for nodes, of in zip(NODES, spans, strict=True)]
        rows = [row(name, "CPU s per node", mine, each[0], "one node") for name, mine in zip(STARTS, each, strict=True)]
        largest, cores = spans[-1], os.cpu_count() or 1
        walls, bounds = [span.wall for span in largest], [span.cpu / cores for span in largest]
        return [*rows, row(WALL, "s", walls, bounds, "its processor time on all cores")]

    def _start(self, nodes: int) -> Span:
        with self._submitted(list(WAITING), nodes) as (target, handle, began):
            asyncio.run(_until_started(target, handle, nodes))
            return began.until_now(marker(handle))

    def teardown(self) -> Row:
        """The slowest of many deaths: seconds from one rank's SIGKILL until no process of sixteen nodes is left."""
        deaths = [self._death() for _ in range(TEARDOWNS)]
        made = row("teardown_16", "s, the worst", [max(deaths)])
        return Row(**{**made.__dict__, "runs": len(deaths), "ours_spread": (min(deaths), max(deaths))})

    def _death(self) -> float:
        from muster.core.event import RANK_START, Cursor

        async def victim(target: LocalTarget, handle: JobHandle) -> int:
            pids: dict[int, int] = {}
            async for _, _, event in target.session().watch({handle: Cursor()}):
                if event.kind == RANK_START:
                    pids[event.data["rank"]] = event.data["pid"]
                    if len(pids) == TEARDOWN_NODES:
                        return pids[TEARDOWN_NODES // 2]
            raise BenchError("the run ended before its ranks ran")

        with self._submitted(list(WAITING), TEARDOWN_NODES) as (target, handle, _):
            pid, mark = asyncio.run(victim(target, handle)), marker(handle)
            began = time.perf_counter()
            processes.kill([pid])
            processes.wait_for(lambda: not processes.marked(MARK, mark), "the end of sixteen nodes, one of which lost its rank")
            return time.perf_counter() - began

    @contextmanager
    def _submitted(self, command: list[str], nodes: int) -> Iterator[tuple[LocalTarget, JobHandle, Began]]:
        """Have a job submitted inside the block and ended behind it; with the moment before the submit."""
        from muster import runner
        from muster.request.training_job import training_job
        from muster.targets.local.target import LocalTarget

        target = LocalTarget(root=self.folder / "home")
        wishes = {"name": "many", "framework": "any", "command": command, "node_count": nodes, "grace_seconds": 2}
        code = self.folder / "code"  # a folder without anything: what the store and the nodes write is no part of the job
        code.mkdir(exist_ok=True)
        job = training_job({**wishes, "store": f"s3://{BUCKET}/runs"}, base=code)
        planned = runner.plan_job(job, log=_quiet)
        began = Began()
        handle = runner.submit_plan(
            planned,
            target,
            runner.LaunchContext(job_id=runner.new_run_id("many"), access=self._access()),
            log=_quiet,
            check_store=False,
        )
        try:
            yield target, handle, began
        finally:
            target.cancel(handle, 1, CANCEL)
            target.remove(handle)

    def _access(self) -> StoreAccess:
        from muster.core.store_access import StoreAccess

        access_key, secret_key = KEYS.values()
        return StoreAccess(endpoint_url=self.endpoint, access_key=access_key, secret_key=secret_key)


MARK = "MUSTER_JOB"


@dataclass(frozen=True, kw_only=True)
class Span:
    """``wall`` seconds, and ``cpu`` seconds of all processes that took part."""

    wall: float
    cpu: float


class Began:
    """A moment, and what processor time this process had taken by then."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _own_cpu()

    def until_now(self, mark: str) -> Span:
        """Return what has been taken since, by this process and by those of a job, which are all younger."""
        wall = time.perf_counter() - self._wall
        theirs = sum(processes.processor_seconds_with_children(pid) for pid in processes.marked(MARK, mark))
        return Span(wall=wall, cpu=_own_cpu() - self._cpu + theirs)


def marker(handle: JobHandle) -> str:
    """Return the value of MUSTER_JOB in the environment of all processes of an attempt."""
    return handle.id.marker


async def _until_started(target: LocalTarget, handle: JobHandle, ranks: int) -> None:
    from muster.core.event import RANK_START, Cursor

    started = 0
    async for _, _, event in target.session().watch({handle: Cursor()}):
        started += event.kind == RANK_START
        if started == ranks:
            return
    raise BenchError("the run ended before its ranks ran")


def _own_cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _quiet(line: str) -> None:
    """Take what is told of a step and say nothing."""
