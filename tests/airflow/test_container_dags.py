"""The example DAGs across containers of a real engine, on images that Muster builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from air import Air
from trained import check, check_configs, example, trained

from frameworks import Frameworks
from muster.targets.local.target import LocalTarget

if TYPE_CHECKING:
    from docker import DockerClient

    from engine import DockerStore

# the first run of an example builds its image, and Horovod is compiled in it
pytestmark = [pytest.mark.timeout(2400), pytest.mark.usefixtures("kept_horovod")]


@pytest.fixture
def contained(  # noqa: PLR0917
    airflow_db: None,
    docker_store: DockerStore,
    base_image: str,
    frameworks: Frameworks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Air:
    """Return Airflow whose connection ``muster_docker`` is an engine, and whose store containers reach."""
    access = docker_store.access
    aws_extra = {"endpoint_url": access.endpoint_url, "region_name": "us-east-1"}
    aws = {"conn_type": "aws", "login": access.access_key, "password": access.secret_key, "extra": aws_extra}
    extra = {"base_image": base_image, "networks": docker_store.network}
    monkeypatch.setenv("AIRFLOW_CONN_TEST_STORE", json.dumps(aws))
    monkeypatch.setenv("AIRFLOW_CONN_MUSTER_DOCKER", json.dumps({"conn_type": "muster_docker", "extra": extra}))
    monkeypatch.setenv("MUSTER_HOME", str(frameworks.root))
    source = tmp_path / "source"
    source.mkdir()
    return Air(store=docker_store, target=LocalTarget(root=tmp_path / "unused"), source=source, capture=capfd)


@pytest.mark.parametrize(
    ("name", "model", "nodes", "hashes", "tasks"),
    [
        pytest.param("tensorflow_multi_worker", "digits-multi-worker", 2, 2, {"worker": 2}, marks=pytest.mark.full),
        pytest.param(
            "tensorflow_parameter_server", "digits-parameter-server", 2, 2, {"ps": 1, "worker": 2}, marks=pytest.mark.full
        ),
        ("horovod_torch", "digits-horovod-torch", 2, 2, {}),
        pytest.param("horovod_tensorflow", "digits-horovod-tensorflow", 2, 2, {}, marks=pytest.mark.full),
        ("mpi_digits", "digits-mpi", 3, 3, {}),
    ],
)
def test_an_example_trains_across_containers(  # noqa: PLR0917
    name: str,
    model: str,
    nodes: int,
    hashes: int,
    tasks: dict[str, int],
    contained: Air,
    engine: DockerClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dag_run = contained.run(example(name, monkeypatch, contained, "muster_docker"))
    done = trained(contained, dag_run, tmp_path / "got")
    check(done, model=model, hashes=hashes)
    assert len({rank["node"] for rank in done.record["ranks"]}) == nodes
    check_configs(done, tasks)
    assert left_over(engine, done.record["run"]) == []


def left_over(engine: DockerClient, run: str) -> list[Any]:
    """Return the containers and networks of a run that are still there."""
    filters = {"label": f"muster.job={run}"}
    return [*engine.containers.list(all=True, filters=filters), *engine.networks.list(filters=filters)]
