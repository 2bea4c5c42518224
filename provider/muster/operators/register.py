"""RegisterModelOperator: a run's committed outputs as a version of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator, Context

from muster.core.errors import RequestError
from muster.core.manifest import Manifest
from muster.hooks.mlflow import MlflowHook
from muster.hooks.store import RunStoreHook
from muster.operators.outcome import airflow_errors, emit
from muster.registry import open_registry
from muster.store.run_store import RunStore


class RegisterModelOperator(BaseOperator):
    """
    Registers the outputs of a run as a version of a model; registering the same run again returns the same version.

    Returns ``{"name", "version", "uri", "metrics", "run"}``, which is also put on the event of every asset in ``outlets``.

    :param model_name: name of the model
    :param run: return value of a train operator (``train.output``); by default that of the only upstream train task
    :param path: file or folder of the run that is the model
    :param tags: ``{name: text}`` of the version
    :param metrics: metrics of the version, added to those that the run logged
    :param registry: ``store``, the run store itself, or ``mlflow``, an MLflow server
    :param mlflow_conn_id: connection to the MLflow server; by default the worker's ``MLFLOW_TRACKING_*`` variables
    :param aws_conn_id: connection with the store's credentials; by default that of the run
    """

    template_fields: Sequence[str] = (
        "model_name",
        "run",
        "path",
        "tags",
        "metrics",
        "registry",
        "mlflow_conn_id",
        "aws_conn_id",
    )
    ui_color = "#dff2e1"

    def __init__(
        self,
        *,
        model_name: str,
        run: Any = None,
        path: str = "outputs",
        tags: dict[str, str] | None = None,
        metrics: dict[str, float] | None = None,
        registry: str = "store",
        mlflow_conn_id: str | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.run = run
        self.path = path
        self.tags = tags
        self.metrics = metrics
        self.registry = registry
        self.mlflow_conn_id = mlflow_conn_id
        self.aws_conn_id = aws_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Register the run's manifest."""
        with airflow_errors(retry=False):
            run = self.run if self.run is not None else self._upstream_run(context)
            reference = _reference(run)
            store = RunStoreHook(self.aws_conn_id or reference.get("aws_conn_id"), reference["store"]).run_store()
            manifest = _manifest(store, reference)
            metrics = {**(manifest.metrics or {}), **(self.metrics or {})}
            registry = open_registry(self._registry_config(), store)
            version = registry.register(manifest, self.model_name, path=self.path, metrics=metrics, tags=self.tags or {})
        known = {"name": version.name, "version": version.version, "uri": version.uri, "metrics": dict(version.metrics)}
        registered = {**known, "run": version.run}
        emit(context, self.outlets, registered)
        self.log.info("model %s version %s: run %s, %s", version.name, version.version, version.run, version.uri)
        return registered

    def _registry_config(self) -> str | dict[str, Any]:
        if self.registry == "mlflow":
            return MlflowHook(self.mlflow_conn_id).get_config()
        if self.mlflow_conn_id:
            raise RequestError(f"mlflow_conn_id is for registry='mlflow', but registry is {self.registry!r}")
        return self.registry

    def _upstream_run(self, context: Context) -> Any:
        """Find the one upstream task that returned a run."""
        upstream = sorted(self.upstream_task_ids)
        found = [value for value in (context["ti"].xcom_pull(task_ids=task) for task in upstream) if _is_run(value)]
        if len(found) != 1:
            raise RequestError(f"run: {len(found)} of the upstream tasks {upstream} returned a run; give run explicitly")
        return found[0]


def _is_run(value: Any) -> bool:
    return isinstance(value, Mapping) and {"run", "generation", "store"} <= set(value)


def _reference(run: Any) -> Mapping[str, Any]:
    if not _is_run(run):
        raise RequestError(f"run must be what a train operator returned, with run, generation and store; got {run!r}")
    reference: Mapping[str, Any] = run
    return reference


def _manifest(store: RunStore, reference: Mapping[str, Any]) -> Manifest:
    manifest = store.manifest(reference["run"], int(reference["generation"]))
    if manifest is None:
        raise RequestError(
            f"run {reference['run']} has no committed manifest in {reference['store']}; only completed runs can be registered"
        )
    return manifest
