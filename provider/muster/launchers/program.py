"""The argv of a job's own program, which launchers start directly or hand to what starts it."""

from __future__ import annotations

from muster.core.job import TrainingJob
from muster.core.token import Here, Text


def program(job: TrainingJob) -> tuple[Text, ...]:
    """Give the command as it is, or the entry script under the environment's unbuffered Python."""
    if job.command:
        return job.command
    return ((Here(here="interpreter"),), "-u", job.entry_script, *job.arguments)
