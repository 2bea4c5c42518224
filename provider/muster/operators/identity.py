"""The job id and generation of a task instance, the same over tries and workers."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol

from airflow.sdk.configuration import conf

PREFIX_LENGTH = 31
HASH_LENGTH = 16


class TaskInstanceLike(Protocol):
    """The fields that identify a task instance."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int | None
    max_tries: int
    try_number: int


def deployment_id() -> str:
    """Return the id of this Airflow deployment among those that share a target.

    ``[muster] deployment_id``, or a digest of the address at which this deployment's workers reach their API server: it is the
    one thing that every worker knows, that is the same on all of them and over restarts. (Workers don't see the
    database's address, and their AIRFLOW_HOME and host name may differ or change.)
    """
    return conf.get("muster", "deployment_id", fallback="") or _digest(_api_server())[:HASH_LENGTH]


def job_id(ti: TaskInstanceLike) -> str:
    """Return the job id: a readable prefix and a digest of deployment, DAG, run, task and map index; at most 48 characters."""
    index = -1 if ti.map_index is None else ti.map_index
    identity = [deployment_id(), ti.dag_id, ti.run_id, ti.task_id, str(index)]
    readable = f"{ti.dag_id}.{ti.task_id}" + (f".{index}" if index >= 0 else "")
    return f"{_safe(readable)}-{_digest(*identity)[:HASH_LENGTH]}"


def generation(ti: TaskInstanceLike, retries: int | None) -> int:
    """Return the number of the task's first try since it was last cleared; the same over retries."""
    return max(1, ti.max_tries - (retries or 0) + 1)


def is_retry(ti: TaskInstanceLike, retries: int | None) -> bool:
    """Return whether an earlier try of the same generation may have launched the job already."""
    return ti.try_number > generation(ti, retries)


def _api_server() -> str:
    base = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
    return conf.get("core", "execution_api_server_url", fallback="") or f"{base.rstrip('/')}/execution/"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _safe(text: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.]+", "-", text)[:PREFIX_LENGTH]
    return cleaned.strip("-._") or "job"
