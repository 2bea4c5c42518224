"""JobHandle: the small reference by which a job is found again; holds no hosts and no secrets."""

from __future__ import annotations

from dataclasses import dataclass

HANDLE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class JobHandle:
    """Names one attempt of one generation of a job on a target.

    ``found`` says what submit met: ``launched``, ``attached`` (was running), ``completed`` (result taken, nothing trained).
    """

    job_id: str
    generation: int
    attempt: int
    target: str
    plan_digest: str
    store: str
    found: str = "launched"
    version: int = HANDLE_VERSION
