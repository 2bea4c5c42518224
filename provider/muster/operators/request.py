"""The job and the target that a train operator's attributes ask for, once their templates are rendered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from airflow.sdk.configuration import conf

from muster.core.job import TrainingJob
from muster.operators.job import ATTRIBUTES, JobOperator
from muster.request.training_job import training_job


def requested_job(operator: JobOperator) -> TrainingJob:
    """Give the job; its deadline is the earlier of its own and the task's ``execution_timeout``.

    Not what is left of the timeout: it is part of the plan, and a retry re-attaches only to the same plan. The nodes count it
    from the job's first start.

    :raises RequestError: a parameter is wrong.
    """
    job = training_job(given_parameters(operator), base=requested_folder(operator))
    if operator.execution_timeout is None:
        return job
    limit = min(job.max_run_duration_seconds, operator.execution_timeout.total_seconds())
    return dataclasses.replace(job, max_run_duration_seconds=limit)


def requested_target(operator: JobOperator) -> str | dict[str, Any] | None:
    """Give the connection id or configuration of the target; None for this machine."""
    return operator.compute_target or operator.muster_conn_id


def given_parameters(operator: JobOperator) -> dict[str, Any]:
    """Give the parameters as they were said, None where they were not."""
    given = {name: getattr(operator, attribute) for name, attribute in ATTRIBUTES.items()}
    named = {"name": operator.name or operator.task_id, "framework": operator.framework}
    return {**given, **named, "store": operator.store or conf.get("muster", "store", fallback="")}


def requested_folder(operator: JobOperator) -> Path:
    """Give the folder of the DAG's file."""
    dag = operator.get_dag()
    return Path(dag.fileloc).resolve().parent if dag is not None else Path.cwd()
