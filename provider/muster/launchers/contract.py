"""The contract of launchers: how ranks start and find each other, whatever target they run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from muster.core.errors import RequestError
from muster.core.job import TrainingJob
from muster.core.placeholder import Here, Text
from muster.core.plan import NodePlan

Layout = Callable[[TrainingJob], tuple[NodePlan, ...]]


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """``layout`` is the pure step from job to nodes; ``reserved`` are the variables it owns, which no job may set.

    ``programs`` must be on every node's PATH.
    """

    name: str
    layout: Layout
    reserved: frozenset[str]
    programs: tuple[str, ...] = ()

    def plan(self, job: TrainingJob) -> tuple[NodePlan, ...]:
        """Return what every node runs.

        :raises RequestError: the job sets a variable that this launcher owns.
        """
        self.check(job)
        return self.layout(job)

    def check(self, job: TrainingJob) -> None:
        """Refuse a job that sets a variable of the launcher's.

        :raises RequestError: it does; the message names the variable.
        """
        for parameter, variables in (("environment_variables", job.environment_variables), ("secrets", job.secrets)):
            taken = sorted(self.reserved.intersection(variables))
            if taken:
                raise RequestError(
                    f"{parameter} sets {taken[0]}, but the {self.name} launcher owns that variable; leave it out"
                )


def program(job: TrainingJob) -> tuple[Text, ...]:
    """Return the argv of a rank: the command as it is, or the script under the environment's own interpreter."""
    if job.command:
        return job.command
    script = f"./{job.entry_script}" if job.entry_script.startswith("-") else job.entry_script
    return ((Here(here="interpreter"),), "-u", script, *job.arguments)
