"""The configuration of an MLflow registry, and what happens without MLflow."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from muster.core.errors import RequestError
from muster.registry.mlflow_server import MlflowServer


def test_all_fields_are_read() -> None:
    fields = {
        "type": "mlflow",
        "tracking_uri": "https://m.example.org:8/x/",
        "token": "t",
        "verify": "/ca",
        "username": None,
    }
    server = MlflowServer.from_fields(fields)
    assert server == MlflowServer(tracking_uri="https://m.example.org:8/x", token="t", verify="/ca")


def test_credentials_in_the_address_are_taken_out_of_it() -> None:
    server = MlflowServer.from_fields({"tracking_uri": "http://user:p%40ss%20w@host:5000"})
    assert server == MlflowServer(tracking_uri="http://host:5000", username="user", password="p@ss w")
    assert "p@ss w" not in repr(server)


@pytest.mark.parametrize("uri", ["", None, "file:///models", "sqlite:///x.db", "databricks", "host:5000", "http://", "mlruns"])
def test_what_is_no_address_of_a_server_is_refused(uri: Any) -> None:
    with pytest.raises(RequestError, match="tracking_uri must be the address of an MLflow server"):
        MlflowServer.from_fields({"tracking_uri": uri})


def test_a_refused_address_does_not_show_its_password() -> None:
    with pytest.raises(RequestError, match=r"got 'ftp://host'"):
        MlflowServer.from_fields({"tracking_uri": "ftp://user:secret@host"})


WITHOUT = """
import sys
sys.modules["mlflow"] = None
from muster.core.store_access import StoreAccess
from muster.core.errors import RequestError
from muster.registry import open_registry
from muster.store.run_store import RunStore
registry = open_registry({"type": "mlflow", "tracking_uri": "http://127.0.0.1:1"}, RunStore("s3://b/p", StoreAccess()))
try:
    registry.names()
except RequestError as error:
    print(error)
"""


def test_without_mlflow_the_remedy_is_said() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install 'airflow-provider-muster[mlflow]'" in done.stdout
    assert done.stdout.count("\n") == 1


def test_mlflow_is_not_loaded_before_it_is_asked() -> None:
    code = WITHOUT.partition("try:")[0].replace('sys.modules["mlflow"] = None', "") + "print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
