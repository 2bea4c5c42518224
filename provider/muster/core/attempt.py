"""AttemptId: the name of one attempt of a job, from which its process marker and folder name are made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class AttemptId:
    """One attempt of one generation of a job; the attempts of a job are ordered."""

    job_id: str
    generation: int
    attempt: int

    @property
    def marker(self) -> str:
        """Return the value of MUSTER_JOB in the environment of every process of the attempt."""
        return f"{self.job_id}/g{self.generation}/a{self.attempt}"

    @property
    def folder(self) -> str:
        """Return the name of the attempt's folder, which is also part of other names."""
        return f"g{self.generation}-a{self.attempt}"
