"""`muster run`: a job file from request to exit code."""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster import runner, targets
from muster.cli import CANCELLED, SIGNALS, Interrupted, job_file
from muster.cli.settings import load
from muster.cli.watch import CANCEL_REASON, Screen, watch
from muster.core.errors import UnknownRun
from muster.core.handle import JobHandle
from muster.request.training_job import training_job
from muster.store import expiring_credentials

if TYPE_CHECKING:
    from muster.core.job import TrainingJob
    from muster.core.store_access import StoreAccess
    from muster.targets.contract import ComputeTarget

TARGET_NAMES = ("compute_target", "muster_conn_id")


def run(arguments: argparse.Namespace) -> int:
    """Plan, submit, and wait for the end."""
    requested = time.time()
    path = Path(arguments.job)
    parameters = job_file.read(path)
    folder = path.absolute().parent
    settings = load(folder, os.environ)
    wishes = [parameters.pop(name, None) for name in TARGET_NAMES]
    target = targets.open_target(settings.choose_target(arguments.target, *wishes), alone=True)
    parameters.setdefault("name", path.stem)
    parameters["store"] = settings.choose_store(arguments.store, parameters.get("store"))
    job = training_job(parameters, base=folder)
    secrets = job_file.secret_values(job.secrets, folder, os.environ)
    return _Launch(job, target, settings.access, secrets, requested).run(as_json=arguments.json)


@dataclass(frozen=True)
class _Launch:
    """One run of a checked request; a signal ends it, whatever had been started by then."""

    job: TrainingJob
    target: ComputeTarget
    access: StoreAccess
    secrets: dict[str, str]
    requested: float

    def run(self, *, as_json: bool) -> int:
        job_id = runner.new_run_id(self.job.name)
        screen = Screen(job_id, as_json=as_json)
        try:
            handle = self._submit(job_id, screen)
            screen.note(f"run {job_id}")
            if warning := expiring_credentials.warning(self.access, job_id):
                screen.note(warning, level="warning")
            return watch(self.target, handle, screen)
        except Interrupted:
            self._end_what_was_started(job_id, screen)
            return CANCELLED

    def _submit(self, job_id: str, screen: Screen) -> JobHandle:
        planned = runner.plan(self.job, log=screen.note)
        return runner.submit(
            planned,
            self.target,
            job_id=job_id,
            generation=1,
            access=self.access,
            secrets=self.secrets,
            log=screen.note,
            requested=self.requested,
            check_store=False,  # a new run: the leader's agent looks before any rank starts, while the nodes gather
        )

    def _end_what_was_started(self, job_id: str, screen: Screen) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        screen.note(f"cancelling {job_id}")
        try:
            handle = self.target.find(job_id)
        except UnknownRun:
            return
        runner.cancel(self.target, handle, handle.generation, CANCEL_REASON)
        runner.release(self.target, handle)
