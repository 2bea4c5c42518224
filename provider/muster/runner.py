"""Composes launchers, packaging, targets and store into plan, submit, watch, commit and release of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets as random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.codec import from_data
from muster.core.errors import TargetError, UnknownRun
from muster.core.event import Cursor, Event
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
    """A job ready to submit: its plan, and its packed code on this machine."""

    job: TrainingJob
    plan: JobPlan
    archive: Path | None


@dataclass(frozen=True, kw_only=True)
class LaunchContext:
    """Context of a launch beside the plan: run id and generation, the store's access, secrets' values, the time of the request.

    ``requested`` in seconds since the epoch; the preparing phase is counted from it.
    """

    job_id: str
    generation: int = 1
    access: StoreAccess
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    requested: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a run. ``manifest`` and ``uri`` are s3 URIs; a run that did not complete has a verdict and no manifest."""

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
        """Read the data of an END event or of a run record, which have the same keys."""
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
    """Return a new, sortable run id: name, time (UTC), four random characters."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.")[:40] or "run"
    return f"{readable}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{random.token_hex(2)}"


def plan_job(job: TrainingJob, *, log: Log) -> Planned:
    """Plan a job: check its files, pack its code, resolve its packages, place its ranks.

    :raises RequestError: the request is wrong; nothing has been launched.
    """
    cache = Path(default_root()).expanduser()
    source.check_entry(job)
    folder = Path(job.source_directory) if job.source_directory else None
    packed = snapshot.pack(folder, cache / "snapshots") if folder else None
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


def resolve_environment(job: TrainingJob, *, log: Log) -> EnvironmentRef:
    """Resolve a job's environment, as for its plan.

    :raises EnvironmentUnsolvable: its packages can't be resolved.
    """
    return _environment(job, Path(default_root()).expanduser(), log)


def _environment(job: TrainingJob, cache: Path, log: Log) -> EnvironmentRef:
    spec = conda_file.spelled_out(job.environment)
    if spec.interpreter:
        return EnvironmentRef(interpreter=spec.interpreter)
    if spec.image:
        return EnvironmentRef(image=spec.image)
    ref = EnvironmentRef(python=f"{sys.version_info.major}.{sys.version_info.minor}")
    if spec.packages or spec.python:
        from muster.packaging.environment import lock

        ref = lock.lock_packages(spec.packages, python=spec.python or sys.executable, cache=cache, log=log)
    return dataclasses.replace(
        ref,
        base_image=spec.base_image,
        mpi=job.distributed_backend == MPI,
        gpu=job.use_gpu,
        apt_packages=spec.apt_packages,
        steps=spec.steps,
    )


def submit_plan(planned: Planned, target: ComputeTarget, context: LaunchContext, *, log: Log, check_store: bool) -> JobHandle:
    """Prepare the target and get or create the job there.

    ``check_store``: check the store from here first, and take the result of this generation if it is committed there
    (``found`` is ``COMPLETED``), even when the target no longer knows the job. Without it the leader's node checks the store
    before any rank starts.

    :raises RequestError: the store or the environment can't be used; nothing has been launched.
    :raises StoreError: the store is unreachable, which may pass; nothing has been launched.
    """
    past: tuple[AttemptRecord, ...] = ()
    if check_store:
        store = _store(planned.plan.store, context.access)
        store.check()
        committed = _committed(store, planned.plan, target, context)
        if committed is not None:
            return committed
        past = _attempts(store, context)
    target.prepare(planned.plan, log)
    return target.submit(
        Submission(
            job_id=context.job_id,
            generation=context.generation,
            plan=planned.plan,
            archive=planned.archive,
            access=context.access,
            secrets=context.secrets,
            requested=context.requested,
            past=past,
            first_started=past[0].started if past else 0.0,
        )
    )


def _attempts(store: RunStore, context: LaunchContext) -> tuple[AttemptRecord, ...]:
    """Return the attempts in the store's record, for a target that has released them."""
    try:
        record = store.record(context.job_id, context.generation)
    except UnknownRun:
        return ()
    return tuple(from_data(AttemptRecord, attempt) for attempt in record["attempts"])


def _committed(store: RunStore, plan: JobPlan, target: ComputeTarget, context: LaunchContext) -> JobHandle | None:
    job_id, generation = context.job_id, context.generation
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


async def watch_run(
    target: ComputeTarget, handle: JobHandle, cursor: Cursor | None = None
) -> AsyncIterator[tuple[Cursor, Event]]:
    """Yield the events of a run, each with the cursor after it; the last is END."""
    async for _, position, event in target.session().watch({handle: cursor or Cursor()}):
        yield position, event


def stored_outcome(handle: JobHandle, access: StoreAccess) -> Outcome:
    """Return the outcome of an ended run from its record in the store; a committed manifest outranks the record.

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


def release(target: ComputeTarget, handle: JobHandle) -> None:
    """Release a target's files of a run whose outcome was read; after a failure the next submit releases them."""
    with contextlib.suppress(TargetError):
        target.release(handle)


def commit_outputs(target: ComputeTarget, job_id: str, access: StoreAccess) -> JobHandle:
    """Start agents that store the outputs a completed run could not store; watch the handle for the outcome."""
    return target.commit(target.find(job_id), access)


def _store(uri: str, access: StoreAccess) -> RunStore:
    from muster.store.run_store import RunStore

    return RunStore(uri, access)
