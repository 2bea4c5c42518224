"""Launchers: how the ranks of a framework find each other; pure functions from a job to its nodes' plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from muster.core.errors import RequestError
from muster.core.job import TrainingJob
from muster.core.plan import NodePlan
from muster.launchers import plain, pytorch


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """``plan`` lays out the ranks; ``reserved`` names variables that only the launcher may set."""

    plan: Callable[[TrainingJob], tuple[NodePlan, ...]]
    reserved: frozenset[str]


LAUNCHERS = {
    "pytorch": Launcher(plan=pytorch.plan, reserved=pytorch.RESERVED),
    "any": Launcher(plan=plain.plan, reserved=plain.RESERVED),
}


def plan(job: TrainingJob) -> tuple[NodePlan, ...]:
    """Lay out a job's ranks by its framework's launcher.

    :raises RequestError: the user set a variable that the launcher owns.
    """
    launcher = LAUNCHERS[job.framework]
    for name in [*job.environment_variables, *job.secrets]:
        if name in launcher.reserved:
            raise RequestError(f"variable {name!r} is set by the {job.framework} launcher on every rank; leave it out")
    return launcher.plan(job)
