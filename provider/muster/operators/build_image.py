"""BuildTrainingImageOperator: the image of an environment, built before a training needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from muster import runner
from muster.core.errors import RequestError
from muster.core.plan import EnvironmentRef
from muster.hooks.compute import ComputeHook
from muster.operators.job import EnvironmentParameters
from muster.operators.outcome import airflow_errors
from muster.operators.request import given_parameters, requested_folder, requested_target
from muster.request.training_job import training_job
from muster.targets.contract import ImageBuilder

# parameters that a job requires and an environment does not depend on; a script, because mpi4py is added for scripts alone
PLACEHOLDERS = {"entry_script": "train.py", "store": "s3://none/none"}


class BuildTrainingImageOperator(EnvironmentParameters):
    """
    Builds the image that a train operator with the same parameters would build, or finds it.

    The image does not contain the code: after a change of the code, the same image is found. Returns ``{"image", "digest",
    "lock"}``: the image's name, its id, and the resolved packages, one per line. The parameters are those of
    :class:`EnvironmentParameters`, and

    :param framework: framework of the train operator: ``"pytorch"``, ``"tensorflow"``, ``"mpi"`` or ``"any"``
    """

    template_fields: Sequence[str] = (*EnvironmentParameters.template_fields, "framework")
    ui_color = "#e8e3f5"

    def __init__(self, *, framework: str = "any", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.framework = framework

    def execute(self, context: Context) -> dict[str, Any]:
        """Build the image, or find it."""
        with airflow_errors(retry=False):
            job = training_job({**PLACEHOLDERS, **given_parameters(self)}, base=requested_folder(self))
            ref = runner.resolve_environment(job, log=self._log_line)
            return self._build(self._open_target(), ref)

    def _open_target(self) -> ImageBuilder:
        target = ComputeHook(requested_target(self)).get_target()
        if not isinstance(target, ImageBuilder):
            raise RequestError(
                f"target {target.name!r} runs no containers and has no images; give a compute_target that is an engine"
            )
        return target

    def _build(self, target: ImageBuilder, ref: EnvironmentRef) -> dict[str, Any]:
        if ref.interpreter:
            raise RequestError(f"environment names the interpreter {ref.interpreter!r}, which is in no image; give packages")
        image = target.build_image(ref, self._log_line)
        self.log.info("image %s is on %s: %s", image.name, image.location, image.id)
        return {"image": image.name, "digest": image.id, "lock": ref.lock}

    def _log_line(self, line: str) -> None:
        self.log.info("%s", line)
