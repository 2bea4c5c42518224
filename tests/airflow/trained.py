"""What every example DAG must leave: equal weights on all ranks, outputs in the store, a registered model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from air import Air
from airflow.dag_processing.dagbag import DagBag

DAGS = Path(__file__).parents[2] / "dags"


def example(name: str, monkeypatch: pytest.MonkeyPatch, air: Air, target: str) -> Any:
    """Load an example DAG that trains on a target's connection and keeps its runs in the test's store."""
    monkeypatch.setenv("MUSTER_STORE", air.store.uri)
    monkeypatch.setenv("MUSTER_TARGET", target)
    monkeypatch.setenv("MUSTER_AWS_CONN_ID", "test_store")
    bag = DagBag(dag_folder=str(DAGS / f"{name}.py"), bundle_name="dags-folder")
    assert bag.import_errors == {}
    return bag.dags[name]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run of an example: what each rank printed, how the run is kept, and which model it became."""

    lines: dict[int, list[str]]
    record: dict[str, Any]
    registered: dict[str, Any]
    files: dict[str, Path]

    @property
    def weights(self) -> dict[int, str]:
        """The hash of the weights by rank, of those that printed one."""
        found = {rank: [line for line in lines if line.startswith("weights ")] for rank, lines in self.lines.items()}
        return {rank: lines[-1] for rank, lines in found.items() if lines}

    @property
    def configs(self) -> dict[int, dict[str, Any]]:
        """TF_CONFIG by rank, of those that printed one."""
        found = {rank: [line for line in lines if line.startswith("TF_CONFIG ")] for rank, lines in self.lines.items()}
        return {rank: json.loads(lines[0].removeprefix("TF_CONFIG ")) for rank, lines in found.items() if lines}


def trained(air: Air, dag_run: Any, folder: Path) -> Trained:
    """Return what a DAG run left, after a look whether it is there at all."""
    assert dag_run.state == "success", air.log
    run, store = air.returned(dag_run), air.store.open()
    record = store.record(run["run"], run["generation"])
    nodes = sorted({rank["node"] for rank in record["ranks"]})
    events = [e for node in nodes for _, e in store.events(run["run"], run["generation"], run["attempt"], node, 0)]
    lines: dict[int, list[str]] = {rank["rank"]: [] for rank in record["ranks"]}
    for item in events:
        if item.kind == "line":
            lines[item.data["rank"]].append(item.data["text"])
    files = {os.path.relpath(file, folder): file for file in store.download(run["run"], "outputs/*", folder)}
    return Trained(lines=lines, record=record, registered=air.returned(dag_run, "register"), files=files)


def check(done: Trained, *, model: str, hashes: int, least: float = 0.94) -> None:
    """Check what all examples have in common; ``hashes`` is how many ranks print one."""
    assert len(done.weights) == hashes, done.lines
    assert len(set(done.weights.values())) == 1, done.weights
    assert (done.registered["name"], done.registered["version"]) == (model, 1)
    assert done.registered["metrics"]["accuracy"] >= least
    [metrics] = [file for name, file in done.files.items() if name.endswith("metrics.json")]
    assert json.loads(metrics.read_text())["accuracy"] == pytest.approx(done.registered["metrics"]["accuracy"])
    assert any(Path(name).name.startswith("model.") for name in done.files)


def check_configs(done: Trained, tasks: dict[str, int]) -> None:
    """Check that every task printed a TF_CONFIG of the documented shape, and all the same cluster."""
    assert len(done.configs) == sum(tasks.values())
    for config in done.configs.values():
        assert list(config) == ["cluster", "task", "environment"]
        assert config["environment"] == "cloud"
        assert {role: len(hosts) for role, hosts in config["cluster"].items()} == tasks
    clusters = [config["cluster"] for config in done.configs.values()]
    assert all(cluster == clusters[0] for cluster in clusters)
    seen = sorted((config["task"]["type"], config["task"]["index"]) for config in done.configs.values())
    assert seen == sorted((role, index) for role, count in tasks.items() for index in range(count))
