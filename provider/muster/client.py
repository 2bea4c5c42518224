"""The Python API: run a job without Airflow, follow it, cancel it and wait for its outcome; the command line uses it too."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster import runner, targets
from muster.core.errors import UnknownRun
from muster.core.event import END, Event
from muster.core.handle import JobHandle
from muster.core.job import TrainingJob
from muster.request import job_file
from muster.request.training_job import training_job
from muster.runner import LaunchContext, Outcome
from muster.settings import load_settings
from muster.store import credentials
from muster.targets.contract import ComputeTarget, Log

CANCEL_REASON = "cancelled by its caller"
TARGET_PARAMETERS = ("compute_target", "muster_conn_id")

logger = logging.getLogger("muster")


def run(
    job: Mapping[str, Any] | Path | str, *, target: str | Mapping[str, Any] | None = None, store: str | None = None
) -> Outcome:
    """Run a job and wait for its outcome; a KeyboardInterrupt cancels the run.

    The parameters are those of :func:`submit`. A run that failed or was cancelled is an outcome too: see ``Outcome.state`` and
    ``Outcome.verdict``.
    """
    prepared = prepare(job, target=target, store=store)
    try:
        return _submit(prepared).outcome()
    except KeyboardInterrupt:
        prepared.cancel_launched(CANCEL_REASON)
        raise


def submit(
    job: Mapping[str, Any] | Path | str, *, target: str | Mapping[str, Any] | None = None, store: str | None = None
) -> SubmittedRun:
    """Launch a job and return its run, which goes on when this process ends.

    ``job`` is the path of a JOB.yaml, or its parameters, with paths relative to the working directory. ``target`` is a name
    from muster.toml or a target's fields. Target and store that are not given are found as ``muster run`` finds them.

    :raises RequestError: the job, the target or the store is wrong; nothing was launched.
    :raises TargetError: the target could not launch the job.
    """
    return _submit(prepare(job, target=target, store=store))


def prepare(
    job: Mapping[str, Any] | Path | str, *, target: str | Mapping[str, Any] | None = None, store: str | None = None
) -> PreparedRun:
    """Check a job and open its target, without launching anything.

    :raises RequestError: the job, the target or the store is wrong.
    """
    requested = time.time()
    if isinstance(job, Mapping):
        parameters, folder = dict(job), Path.cwd()
        job_file.refuse_airflow_only(parameters, "job")
    else:
        path = Path(job)
        parameters, folder = {"name": path.stem, **job_file.read_job_file(path)}, path.absolute().parent
    settings = load_settings(folder, os.environ)
    own_targets = [parameters.pop(name, None) for name in TARGET_PARAMETERS]
    compute_target = targets.open_target(settings.choose_target(target, *own_targets), alone=True)
    parameters["store"] = settings.choose_store(store, parameters.get("store"))
    checked = training_job(parameters, base=folder)
    context = LaunchContext(
        job_id=runner.new_run_id(checked.name),
        access=settings.access,
        secrets=job_file.secret_values(checked.secrets, folder, os.environ),
        requested=requested,
    )
    return PreparedRun(job=checked, target=compute_target, context=context)


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """A checked job with its target and run id."""

    job: TrainingJob
    target: ComputeTarget
    context: LaunchContext

    @property
    def warning(self) -> str:
        """Warning of the launch for the user; empty for none."""
        return credentials.expiry_warning(self.context.access, self.context.job_id)

    def submit(self, log: Log) -> SubmittedRun:
        """Plan and launch the job; ``log`` receives the progress of snapshot and environment, line by line."""
        planned = runner.plan_job(self.job, log=log)
        # a new run: the leader's agent checks the store before any rank starts, while the nodes gather
        handle = runner.submit_plan(planned, self.target, self.context, log=log, check_store=False)
        return SubmittedRun(target=self.target, handle=handle)

    def cancel_launched(self, reason: str) -> None:
        """Cancel what an interrupted submit launched, if anything."""
        try:
            launched = SubmittedRun(target=self.target, handle=self.target.find(self.context.job_id))
        except UnknownRun:
            return
        launched.cancel(reason)
        launched.release()


@dataclass(kw_only=True)
class SubmittedRun:
    """A run on its target. ``events``, ``outcome`` and ``cancel`` block; ``watch`` and ``wait`` are for an event loop."""

    target: ComputeTarget
    handle: JobHandle
    _outcome: Outcome | None = field(default=None, init=False, repr=False)

    @property
    def id(self) -> str:
        """The run's id, as ``muster ls`` shows it."""
        return self.handle.job_id

    def events(self) -> Iterator[Event]:
        """Yield the run's events from its first, until END."""
        with asyncio.Runner() as loop:
            events = self.watch()
            try:
                while (event := loop.run(_next(events))) is not None:
                    yield event
            finally:
                loop.run(_close(events))

    def outcome(self) -> Outcome:
        """Wait for the end of the run, release its target and return the outcome."""
        if self._outcome is None:
            self._outcome = asyncio.run(self.wait())
            self.release()
        return self._outcome

    def cancel(self, reason: str = CANCEL_REASON) -> bool:
        """Cancel the run and wait until nothing of it is left; return whether it was running."""
        return self.target.cancel(self.handle, self.handle.generation, reason)

    async def watch(self) -> AsyncGenerator[Event, None]:
        """Yield the run's events from its first, until END."""
        async for _, event in runner.watch_run(self.target, self.handle):
            yield event

    async def wait(self, show: Callable[[Event], None] = lambda event: None) -> Outcome:
        """Wait for the end of the run and return the outcome; ``show`` receives every event."""
        async for event in self.watch():
            show(event)
            if event.kind == END:
                return Outcome.from_event(self.handle, event)
        raise AssertionError("a session ended without an END event")

    def release(self) -> None:
        """Release the target's files of the run; the run record in the store stays."""
        runner.release(self.target, self.handle)


def _submit(prepared: PreparedRun) -> SubmittedRun:
    submitted = prepared.submit(logger.info)
    if prepared.warning:
        logger.warning("%s", prepared.warning)
    return submitted


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()
