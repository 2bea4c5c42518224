"""Composes the parts: plan, submit, watch, cancel, commit; the only place that knows them all, used by CLI and Airflow."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets as random
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.codec import from_data
from muster.core.errors import TargetError, UnknownRun
from muster.core.event import END, Cursor, Event
from muster.core.handle import JobHandle, SubmitResult
from muster.core.job import TrainingJob
from muster.core.plan import CONTINUE, END_RUN, ContainerOptions, EnvironmentRef, JobPlan, Limits, Needs
from muster.core.state import RunState
from muster.core.store_access import StoreAccess
from muster.core.verdict import Verdict
from muster.launchers import MPI, launcher_of
from muster.node.assignment import AttemptRecord
from muster.packaging.code import snapshot, source
from muster.packaging.environment import conda_file
from muster.targets.claim import committed_otherwise
from muster.targets.contract import ComputeTarget, Log, Submission
from muster.targets.options import default_root

if TYPE_CHECKING:
    from muster.store.run_store import RunStore


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A job that could be submitted: its plan, and its packed code on this machine."""

    job: TrainingJob
    plan: JobPlan
    archive: Path | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. ``manifest`` and ``uri`` are s3 URIs; a run that did not complete has a verdict and no manifest."""

    run: str
    generation: int
    state: RunState
    verdict: Verdict | None = None
    manifest: str | None = None
    digest: str | None = None
    uri: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_data(cls, run: str, generation: int, data: Mapping[str, Any]) -> Outcome:
        """Read the data of an END event, or a run's record; both name these things alike."""
        return cls(
            run=run,
            generation=generation,
            state=RunState(data["state"]),
            verdict=from_data(Verdict, data["verdict"]) if data.get("verdict") else None,
            manifest=data.get("manifest"),
            digest=data.get("digest"),
            uri=data.get("uri") or "",
            metrics=data.get("metrics") or {},
        )

    @classmethod
    def from_event(cls, handle: JobHandle, event: Event) -> Outcome:
        """Read an END event."""
        return cls.from_data(handle.job_id, handle.generation, event.data)


def new_run_id(name: str) -> str:
    """Give a new, sortable run id: name, time (UTC), four random characters."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:40] or "run"
    return f"{readable}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{random.token_hex(2)}"


def plan(job: TrainingJob, *, log: Log) -> Planned:
    """Turn a job into a plan: check its files, pack its code, resolve its packages, lay out its ranks.

    :raises RequestError: something of the request is wrong; nothing has been launched.
    """
    cache = Path(default_root()).expanduser()
    source.check(job)
    folder = Path(job.source_directory) if job.source_directory else None
    packed = snapshot.take(folder, cache / "snapshots") if folder else None
    launcher = launcher_of(job)
    result = JobPlan(
        name=job.name,
        framework=job.framework,
        nodes=launcher.plan(job),
        snapshot=packed.digest if packed else "",
        environment=_environment(job, cache, log),
        store=job.store,
        env=tuple(job.environment_variables.items()),
        secrets=tuple(sorted(job.secrets)),
        needs=Needs(gpus=job.resources.gpus, cpus=job.resources.cpus, memory=job.resources.memory, programs=launcher.programs),
        network_interface=job.network_interface,
        container=ContainerOptions(mounts=job.mounts, shm_size=job.shm_size, arguments=job.docker_arguments),
        limits=Limits(
            max_run_duration=job.max_run_duration_seconds, grace=job.grace_seconds, store_patience=job.store_patience_seconds
        ),
        resume_from=job.resume_from,
        on_node_loss=CONTINUE if job.elastic else END_RUN,
        min_nodes=job.min_node_count,
        tags=tuple(job.tags.items()),
        source=source.describe(folder) if folder else (),
    )
    return Planned(job=job, plan=result, archive=packed.archive if packed else None)


def environment(job: TrainingJob, *, log: Log) -> EnvironmentRef:
    """Resolve a job's environment as its plan would have it.

    :raises EnvironmentUnsolvable: its packages can't be resolved.
    """
    return _environment(job, Path(default_root()).expanduser(), log)


def _environment(job: TrainingJob, cache: Path, log: Log) -> EnvironmentRef:
    wanted = conda_file.spelled_out(job.environment)
    if wanted.interpreter:
        return EnvironmentRef(interpreter=wanted.interpreter)
    if wanted.image:
        return EnvironmentRef(image=wanted.image)
    ref = EnvironmentRef(python=f"{sys.version_info.major}.{sys.version_info.minor}")
    if wanted.packages or wanted.python:
        from muster.packaging.environment import lock

        ref = lock.resolve(wanted.packages, python=wanted.python or sys.executable, cache=cache, log=log)
    return dataclasses.replace(
        ref,
        base_image=wanted.base_image,
        mpi=job.distributed_backend == MPI,
        gpu=job.use_gpu,
        apt_packages=wanted.apt_packages,
        steps=wanted.steps,
    )


def submit(
    planned: Planned,
    target: ComputeTarget,
    *,
    job_id: str,
    generation: int,
    access: StoreAccess,
    secrets: Mapping[str, str],
    log: Log,
    requested: float,
    check_store: bool,
) -> JobHandle:
    """Prepare the target and get or create the job there.

    ``check_store``: look at the store from here first, and take the result of this generation if it is committed there
    (``found`` is ``COMPLETED``), even when the target has forgotten the job. Without it the leader's node looks before any rank
    starts.

    :raises RequestError: the store or the environment can't be used; nothing has been launched.
    :raises StoreError: the store is away, which may pass; nothing has been launched.
    """
    past: tuple[AttemptRecord, ...] = ()
    if check_store:
        store = _store(planned.plan.store, access)
        store.check()
        taken = _committed(store, planned.plan, target, job_id, generation)
        if taken is not None:
            return taken
        past = _attempts(store, job_id, generation)
    target.prepare(planned.plan, log)
    return target.submit(
        Submission(
            job_id=job_id,
            generation=generation,
            plan=planned.plan,
            archive=planned.archive,
            access=access,
            secrets=dict(secrets),
            requested=requested,
            past=past,
            first_started=past[0].started if past else 0.0,
        )
    )


def _attempts(store: RunStore, job_id: str, generation: int) -> tuple[AttemptRecord, ...]:
    """Give the attempts that the store knows of, for a target that has let go of them."""
    try:
        record = store.record(job_id, generation)
    except UnknownRun:
        return ()
    return tuple(from_data(AttemptRecord, attempt) for attempt in record["attempts"])


def _committed(store: RunStore, plan: JobPlan, target: ComputeTarget, job_id: str, generation: int) -> JobHandle | None:
    manifest = store.manifest(job_id, generation)
    if manifest is None:
        return None
    record = store.record(job_id, generation)
    if record["plan_digest"] != plan.digest():
        raise committed_otherwise(job_id, generation)
    return JobHandle(
        job_id=job_id,
        generation=generation,
        attempt=manifest.attempt,
        target=target.name,
        plan_digest=record["plan_digest"],
        store=plan.store,
        found=SubmitResult.COMPLETED,
    )


async def watch(target: ComputeTarget, handle: JobHandle, cursor: Cursor | None = None) -> AsyncIterator[tuple[Cursor, Event]]:
    """Yield the events of a run, each with the cursor after it; the last is END."""
    async for _, position, event in target.session().watch({handle: cursor or Cursor()}):
        yield position, event


async def outcome(target: ComputeTarget, handle: JobHandle, tell: Callable[[Event], None] = lambda event: None) -> Outcome:
    """Wait for a run's end and give it; ``tell`` hears every event on the way."""
    async for _, event in watch(target, handle):
        tell(event)
        if event.kind == END:
            return Outcome.from_event(handle, event)
    raise AssertionError("a session ended without an END event")


def stored_outcome(handle: JobHandle, access: StoreAccess) -> Outcome:
    """Give the outcome of a run that has ended from its record in the store; a committed manifest outranks what that says.

    :raises UnknownRun: the store has no such run.
    """
    store = _store(handle.store, access)
    ended = Outcome.from_data(handle.job_id, handle.generation, store.record(handle.job_id, handle.generation))
    manifest = store.manifest(handle.job_id, handle.generation)
    if manifest is None:
        return ended
    return dataclasses.replace(
        ended,
        state=RunState.COMPLETED,
        verdict=None,
        manifest=store.manifest_uri(handle.job_id, handle.generation),
        digest=manifest.digest(),
        uri=manifest.uri,
        metrics=dict(manifest.metrics or {}),
    )


def cancel(target: ComputeTarget, handle: JobHandle, generation: int, reason: str) -> bool:
    """End a run if ``generation`` still owns it, and wait until it is gone; says whether it was there to be ended."""
    return target.cancel(handle, generation, reason)


def release(target: ComputeTarget, handle: JobHandle) -> None:
    """Let a target go of a run whose outcome has been taken; one that can't is asked again by the next submit."""
    with contextlib.suppress(TargetError):
        target.release(handle)


def commit(target: ComputeTarget, job_id: str, access: StoreAccess) -> JobHandle:
    """Start agents that store what a completed run could not; watch the handle for the outcome."""
    return target.commit(target.find(job_id), access)


def _store(uri: str, access: StoreAccess) -> RunStore:
    from muster.store.run_store import RunStore

    return RunStore(uri, access)


def with_limits(planned: Planned, **limits: float) -> Planned:
    """Give the same job with other limits; for callers that know a deadline of their own."""
    plan = dataclasses.replace(planned.plan, limits=dataclasses.replace(planned.plan.limits, **limits))
    return dataclasses.replace(planned, plan=plan)
