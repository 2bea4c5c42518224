"""The example DAGs across the nodes of a Slurm cluster, unchanged but for the connection that they name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from air import Air
from trained import check, check_configs, example, trained

from frameworks import Frameworks
from muster.targets.local.target import LocalTarget
from slurm_cluster import SlurmCluster
from store_server import Store, wait_until

# the first run of an example brings its packages to the shared folder and installs them there
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def shared(frameworks: Frameworks) -> Iterator[Path]:
    """Yield the cluster's shared folder for all examples; what is installed there is kept, what a job leaves is not."""
    folder = frameworks.root / "slurm"
    yield folder
    shutil.rmtree(folder / "jobs", ignore_errors=True)


@pytest.fixture
def clustered(  # noqa: PLR0917
    airflow_db: None,
    slurm_cluster: SlurmCluster,
    store: Store,
    frameworks: Frameworks,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Air:
    """Return Airflow whose connection ``muster_cluster`` is the cluster, its login node the worker's machine."""
    access = store.access
    aws_extra = {"endpoint_url": access.endpoint_url, "region_name": "us-east-1"}
    aws = {"conn_type": "aws", "login": access.access_key, "password": access.secret_key, "extra": aws_extra}
    extra = {"root": str(shared), "memory": "1900M", "poll_interval": "2"}
    monkeypatch.setenv("AIRFLOW_CONN_TEST_STORE", json.dumps(aws))
    monkeypatch.setenv("AIRFLOW_CONN_MUSTER_CLUSTER", json.dumps({"conn_type": "muster_slurm", "extra": extra}))
    monkeypatch.setenv("MUSTER_HOME", str(frameworks.root))
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    source = tmp_path / "source"
    source.mkdir()
    return Air(store=store, target=LocalTarget(root=tmp_path / "unused"), source=source, capture=capfd)


@pytest.mark.parametrize(
    ("name", "model", "hashes", "tasks"),
    [
        pytest.param("mpi_digits", "digits-mpi", 3, {}, marks=pytest.mark.full),
        pytest.param("train_digits", "digits", 2, {}, marks=pytest.mark.full),
        ("tensorflow_multi_worker", "digits-multi-worker", 2, {"worker": 2}),
    ],
)
def test_an_example_trains_across_the_nodes_of_a_cluster(  # noqa: PLR0917
    name: str,
    model: str,
    hashes: int,
    tasks: dict[str, int],
    clustered: Air,
    slurm_cluster: SlurmCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dag_run = clustered.run(example(name, monkeypatch, clustered, "muster_cluster"))
    done = trained(clustered, dag_run, tmp_path / "got")
    check(done, model=model, hashes=hashes)
    check_configs(done, tasks)
    wait_until(lambda: not slurm_cluster.jobs(), every=0.2, what="Slurm has let go of the nodes")
    assert clustered.store.access.secret_key not in clustered.log
