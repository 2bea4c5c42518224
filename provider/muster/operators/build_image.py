"""BuildTrainingImageOperator: the image of an environment, built before a training needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from muster import runner
from muster.core.errors import RequestError
from muster.core.job import TrainingJob
from muster.core.plan import EnvironmentRef
from muster.hooks.compute import ComputeHook
from muster.operators.job import JobOperator
from muster.operators.outcome import airflow_errors
from muster.operators.request import given_parameters, requested_folder, requested_target
from muster.request.training_job import training_job
from muster.targets.docker.target import DockerTarget

# what a job must have and an environment does not depend on; a script, because a framework can be there for scripts alone
STAND_INS = {"entry_script": "train.py", "store": "s3://none/none"}


class BuildTrainingImageOperator(JobOperator):
    """
    Builds the image that a train operator with the same parameters would build, or finds it.

    Code is no part of it: a change of the code finds the same image. Parameters that an environment does not depend on are
    checked, and have no effect. Returns ``{"image", "digest", "lock"}``: the image's name, its id, and the resolved packages,
    one a line. The parameters are those of :class:`JobOperator`, and

    :param framework: that of the train operator: ``"pytorch"``, ``"tensorflow"``, ``"mpi"`` or ``"any"``
    """

    template_fields: Sequence[str] = (*JobOperator.template_fields, "framework")
    ui_color = "#e8e3f5"

    def __init__(self, *, framework: str = "any", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.framework = framework

    def execute(self, context: Context) -> dict[str, Any]:
        """Build the image, or find it."""
        with airflow_errors(retry=False):
            ref = runner.environment(self._job(), log=self._say)
            return self._build(self._target(), ref)

    def _job(self) -> TrainingJob:
        given = {name: value for name, value in given_parameters(self).items() if value not in (None, "")}
        stand_ins = dict(STAND_INS)
        if any(given.get(name) for name in ("command", "entry_script", "script")):
            del stand_ins["entry_script"]
        return training_job({**stand_ins, **given}, base=requested_folder(self))

    def _target(self) -> DockerTarget:
        target = ComputeHook(requested_target(self)).get_target()
        if not isinstance(target, DockerTarget):
            raise RequestError(
                f"target {target.name!r} runs no containers and has no images; give a compute_target that is an engine"
            )
        return target

    def _build(self, target: DockerTarget, ref: EnvironmentRef) -> dict[str, Any]:
        if ref.interpreter:
            raise RequestError(f"environment names the interpreter {ref.interpreter!r}, which is in no image; give packages")
        image = target.images.ensure(target.engine.client, ref, target.engine.url, self._say)
        self.log.info("image %s is on %s: %s", image.name, target.engine.url, image.id)
        return {"image": image.name, "digest": image.id, "lock": ref.lock}

    def _say(self, line: str) -> None:
        self.log.info("%s", line)
