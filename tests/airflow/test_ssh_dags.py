"""The example DAGs across SSH hosts, unchanged but for the connection that they name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from air import Air
from trained import check, check_configs, example, trained

from frameworks import Frameworks
from hosts_lab import HostsLab
from muster.targets.local.target import LocalTarget
from rack import Rack
from store_server import Store, wait_until

# the first run of an example brings its packages to the hosts and installs them there
pytestmark = pytest.mark.timeout(1800)
ROOT = "~/examples"


@pytest.fixture
def racked(  # noqa: PLR0917
    airflow_db: None,
    rack: Rack,
    rack_store: Store,
    frameworks: Frameworks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Air:
    """Return Airflow whose connection ``muster_rack`` is the rack, with its key in a connection of the ssh provider."""
    access = rack_store.access
    aws_extra = {"endpoint_url": access.endpoint_url, "region_name": "us-east-1"}
    aws = {"conn_type": "aws", "login": access.access_key, "password": access.secret_key, "extra": aws_extra}
    login = {"conn_type": "ssh", "login": "root", "extra": {"private_key": rack.key_file.read_text()}}
    hosts = "\n".join(f"{host.name} host={host.address}" for host in rack.hosts)
    extra = {"hosts": hosts, "known_hosts": rack.known_hosts, "ssh_conn_id": "rack_login", "root": ROOT}
    monkeypatch.setenv("AIRFLOW_CONN_TEST_STORE", json.dumps(aws))
    monkeypatch.setenv("AIRFLOW_CONN_RACK_LOGIN", json.dumps(login))
    monkeypatch.setenv("AIRFLOW_CONN_MUSTER_RACK", json.dumps({"conn_type": "muster_ssh", "extra": extra}))
    monkeypatch.setenv("MUSTER_HOME", str(frameworks.root))
    source = tmp_path / "source"
    source.mkdir()
    return Air(store=rack_store, target=LocalTarget(root=tmp_path / "unused"), source=source, capture=capfd)


@pytest.mark.parametrize(
    ("name", "model", "nodes", "hashes", "tasks"),
    [
        pytest.param("mpi_digits", "digits-mpi", 3, 3, {}, marks=pytest.mark.full),
        ("train_digits", "digits", 2, 2, {}),
        pytest.param("tensorflow_multi_worker", "digits-multi-worker", 2, 2, {"worker": 2}, marks=pytest.mark.full),
    ],
)
def test_an_example_trains_across_ssh_hosts(  # noqa: PLR0917
    name: str,
    model: str,
    nodes: int,
    hashes: int,
    tasks: dict[str, int],
    racked: Air,
    rack: Rack,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    dag_run = racked.run(example(name, monkeypatch, racked, "muster_rack"))
    done = trained(racked, dag_run, tmp_path / "got")
    check(done, model=model, hashes=hashes)
    assert len({rank["host"] for rank in done.record["nodes"]}) == nodes
    check_configs(done, tasks)
    lab = HostsLab(rack=rack, store=racked.store, root=ROOT)
    wait_until(lambda: lab.queue() == [], what="the hosts are given back")
    text = racked.database_rows(dag_run)
    assert "PRIVATE KEY" not in text
    assert "PRIVATE KEY" not in racked.log
