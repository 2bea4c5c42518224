"""TrainOperator: a training job on many nodes as one Airflow task, exactly once over retries."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout

from muster import runner
from muster.core.codec import from_data, to_data
from muster.core.handle import JobHandle, SubmitResult
from muster.core.state import RunState
from muster.core.store_access import StoreAccess
from muster.hooks.compute import ComputeHook
from muster.hooks.secrets import resolve_secrets
from muster.hooks.store import RunStoreHook
from muster.links.outputs import OutputsLink, outputs_url
from muster.operators import identity, outcome
from muster.operators.inline import first_event
from muster.operators.job import JobOperator
from muster.operators.outcome import airflow_errors
from muster.operators.request import requested_job, requested_target
from muster.store import credentials
from muster.targets.contract import ComputeTarget
from muster.triggers.cancellation import end_job
from muster.triggers.task_state import TaskKey, still_wanted
from muster.triggers.training import TrainingTrigger, event_handle

RUN_KEY = "muster_run"
KILL_TIMEOUT = 30.0  # seconds that a worker being ended retries a cancel on an unreachable target


class TrainOperator(JobOperator):
    """
    Runs any program on many nodes, and keeps its logs, metrics and ``./outputs``.

    A retry re-attaches to the job that an earlier try launched, or takes its result; clearing the task trains anew. Needs
    ``entry_script`` or ``command``. The parameters are those of :class:`JobOperator`.
    """

    operator_extra_links = (OutputsLink(),)
    ui_color = "#dbe7f5"

    launched: JobHandle | None = None
    _task_key: TaskKey | None = None
    _target: ComputeTarget | None = None
    _unwanted = False
    _followed = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Launch the job or re-attach to it, and wait for its end."""
        requested = time.time()
        self._task_key = TaskKey.of(context["ti"])
        with airflow_errors(retry=self._is_retry(context)):
            access, credentials_end = RunStoreHook(self.aws_conn_id).get_expiring_access()
            job = requested_job(self)
            target = self._open_target()
            planned = runner.plan_job(job, log=self._log_info)
            secrets = resolve_secrets(planned.job.secrets)
            self._stop_if_unwanted()
            handle = runner.submit_plan(
                planned,
                target,
                runner.LaunchContext(
                    job_id=identity.job_id(context["ti"]),
                    generation=identity.generation(context["ti"], self.retries),
                    access=access,
                    secrets=secrets,
                    requested=requested,
                ),
                log=self._log_info,
                check_store=True,
            )
            self.launched = handle
            self._stop_if_unwanted()
            self._announce(context, handle, access)
            self._warn_of(credentials.expiry_warning(access, handle.job_id, credentials_end))
            return self._wait(context, handle, target, access)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Finish the task by the trigger's event; wait here if the trigger could not reach the job."""
        self._task_key = TaskKey.of(context["ti"])
        self.launched = handle = event_handle(event)
        with airflow_errors(retry=self._is_retry(context)):
            target = self._open_target()
            if "unreachable" in event:
                self.log.warning(
                    "waiting in the worker, the triggerer can't reach run %s: %s", handle.job_id, event["unreachable"]
                )
                event = self._follow(handle, target)
            return self._end(context, handle, target, event)

    def on_kill(self) -> None:
        """Cancel the job if Airflow has given up the task; a worker that is drained gets here too."""
        if self._task_key is None:
            return
        if still_wanted(self._task_key):
            self.log.warning("the run continues: airflow still expects the task to run; the next try re-attaches")
            return
        self._unwanted = True
        self._cancel("its airflow task was ended")

    def _open_target(self) -> ComputeTarget:
        self._target = ComputeHook(requested_target(self)).get_target()
        return self._target

    def _announce(self, context: Context, handle: JobHandle, access: StoreAccess) -> None:
        """Publish the run's reference and the link to its outputs while it is running."""
        context["ti"].xcom_push(key=RUN_KEY, value=self._reference(handle))
        url = outputs_url(store=handle.store, run=handle.job_id, generation=handle.generation, endpoint=access.endpoint_url)
        OutputsLink().persist(context, url)
        known = (handle.job_id, handle.generation, handle.attempt, handle.found.value)
        self.log.info("run %s generation %s attempt %s: %s", *known)

    def _reference(self, handle: JobHandle) -> dict[str, Any]:
        """Return the reference by which other tasks find the run."""
        known = {"run": handle.job_id, "generation": handle.generation, "attempt": handle.attempt, "store": handle.store}
        return {"version": 1, **known, "compute_target": requested_target(self), "aws_conn_id": self.aws_conn_id}

    def _wait(self, context: Context, handle: JobHandle, target: ComputeTarget, access: StoreAccess) -> dict[str, Any]:
        if handle.found is SubmitResult.COMPLETED:
            runner.release(target, handle)
            self.log.info("run %s had completed before this try: its result is taken, nothing was trained", handle.job_id)
            return self._complete(context, handle, runner.stored_outcome(handle, access))
        if self.deferrable:
            self.defer(trigger=self._trigger(handle), method_name="execute_complete", timeout=None)
        return self._end(context, handle, target, self._follow(handle, target))

    def _trigger(self, handle: JobHandle) -> TrainingTrigger:
        assert self._task_key is not None
        return TrainingTrigger(handle=to_data(handle), compute_target=requested_target(self), task=self._task_key.to_data())

    def _follow(self, handle: JobHandle, target: ComputeTarget) -> dict[str, Any]:
        """Wait in the worker, with the trigger's code."""
        try:
            return self._first_event(handle, target)
        except AirflowTaskTimeout:
            self._cancel("execution_timeout passed")
            raise

    def _first_event(self, handle: JobHandle, target: ComputeTarget) -> dict[str, Any]:
        self._followed = True
        try:
            event: dict[str, Any] = first_event(self._trigger(handle).follow(target))
            return event
        finally:
            self._followed = False

    def _end(self, context: Context, handle: JobHandle, target: ComputeTarget, event: Mapping[str, Any]) -> dict[str, Any]:
        if "unreachable" in event:
            raise AirflowException(f"run {handle.job_id} is not reachable from this worker: {event['unreachable']}")
        ended = from_data(runner.Outcome, event["outcome"])
        if ended.state is RunState.CANCELED:
            self._cancel("verifying that nothing of it is left")
        self._task_key = None  # it has ended: on_kill has nothing to cancel
        runner.release(target, handle)
        error = outcome.failure(ended, retry=self._is_retry(context))
        if error is not None:
            raise error
        return self._complete(context, handle, ended)

    def _complete(self, context: Context, handle: JobHandle, ended: runner.Outcome) -> dict[str, Any]:
        result = outcome.result(ended, self._reference(handle))
        extra = {name: result[name] for name in ("run", "metrics", "uri", "digest")}
        outcome.emit(context, self.outlets, extra)
        return result

    def _cancel(self, reason: str) -> None:
        """Cancel the job; its files are released only if no session is still reading them."""
        if self._target is not None and self.launched is not None:
            release = not self._followed
            end_job(self._target, self.launched, reason, self._log_at, timeout=KILL_TIMEOUT, release=release)

    def _stop_if_unwanted(self) -> None:
        """Stop the launch if on_kill came before or during it."""
        if self._unwanted:
            self._cancel("its airflow task was ended while it was launched")
            raise AirflowException("the task was ended in airflow while its job was being launched")

    def _is_retry(self, context: Context) -> bool:
        return identity.is_retry(context["ti"], self.retries)

    def _warn_of(self, text: str) -> None:
        if text and self.launched is not None and self.launched.found is SubmitResult.LAUNCHED:
            self._log_at(logging.WARNING, text)

    def _log_info(self, line: str) -> None:
        self._log_at(logging.INFO, line)

    def _log_at(self, level: int, line: str) -> None:
        self.log.log(level, "%s", line)
