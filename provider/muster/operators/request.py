"""The job and the target that an operator's attributes request, once their templates are rendered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from airflow.sdk.configuration import conf

from muster.core.job import TrainingJob
from muster.operators.job import EnvironmentParameters, JobOperator
from muster.request.training_job import PARAMETERS, training_job


def requested_job(operator: JobOperator) -> TrainingJob:
    """Return the job; its deadline is the earlier of its own and the task's ``execution_timeout``.

    The whole timeout counts, not the rest of it: the deadline is part of the plan, and a retry re-attaches only to the same
    plan. The nodes count it from the job's first start.

    :raises RequestError: a parameter is wrong.
    """
    defaults = {
        "framework": operator.framework,
        "name": operator.name or operator.task_id,
        "store": operator.store or conf.get("muster", "store", fallback=""),
    }
    job = training_job({**given_parameters(operator), **defaults}, base=requested_folder(operator))
    if operator.execution_timeout is None:
        return job
    limit = min(job.max_run_duration_seconds, operator.execution_timeout.total_seconds())
    return dataclasses.replace(job, max_run_duration_seconds=limit)


def requested_target(operator: EnvironmentParameters) -> str | dict[str, Any] | None:
    """Return the connection id or configuration of the target; None for this machine."""
    return operator.compute_target or operator.muster_conn_id


def given_parameters(operator: EnvironmentParameters) -> dict[str, Any]:
    """Return the operator's parameters of the job, None for those not given."""
    return {name: getattr(operator, name) for name in operator.template_fields if name in PARAMETERS}


def requested_folder(operator: EnvironmentParameters) -> Path:
    """Return the folder of the DAG's file."""
    dag = operator.get_dag()
    return Path(dag.fileloc).resolve().parent if dag is not None else Path.cwd()
