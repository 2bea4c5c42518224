"""A real Slurm whose controller does not answer when a job is submitted or ended."""

from __future__ import annotations

import pytest

from lab import lines, plan_of
from muster.core.errors import RequestError, TargetError
from muster.core.state import RunState
from slurm_lab import SlurmLab

pytestmark = pytest.mark.timeout(900)  # sbatch and squeue are patient with a controller that does not answer


def test_a_job_that_slurm_took_without_an_answer_runs_once(slurm_lab: SlurmLab) -> None:
    plan = plan_of("print('trained')", slurm_lab.store.uri)
    with (
        slurm_lab.cluster.without_controller(),
        pytest.raises(TargetError, match="did not say whether it has taken run") as error,
    ):
        slurm_lab.submit(plan, job_id="silent")
    assert not isinstance(error.value, RequestError)
    handle = slurm_lab.submit(plan, job_id="silent")
    outcome, events = slurm_lab.wait(handle)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert lines(events) == ["trained"] * 2
    assert len(slurm_lab.numbers(handle, "--states=all")) == 1, (error.value, handle)
