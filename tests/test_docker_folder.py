"""docker/: Dockerfiles that stand on one argument, and a compose file that fits together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.packaging.image.dockerfiles import dockerfile_text
from muster.targets import open_target

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docker"
NAMES = ("mpi", "pytorch", "tensorflow")
VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """The compose file with every variable at its default."""
    text = VARIABLE.sub(r"\1", (FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("name", NAMES)
def test_a_dockerfile_stands_on_its_base_image_alone(name: str) -> None:
    text = dockerfile_text(name)
    froms = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
    stages = {stage for _, stage in froms}
    assert {base for base, _ in froms} <= {"${BASE_IMAGE}", "scratch", *stages}
    assert "ARG BASE_IMAGE=python:3.11-slim\n" in text


def test_every_folder_is_told_of() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.parent.name for path in FOLDER.glob("*/Dockerfile")} == set(NAMES)
    assert all(f"`{name}/`" in readme for name in NAMES)


def test_services_use_what_is_declared(stack: dict[str, Any]) -> None:
    assert set(stack["services"]) == {"airflow", "mlflow", "store"}
    for name, service in stack["services"].items():
        assert set(service["networks"]) <= set(stack["networks"]), name
        named = [volume.split(":")[0] for volume in service.get("volumes", ())]
        assert {volume for volume in named if not volume.startswith((".", "/"))} <= set(stack["volumes"]), name
        for other, wish in service.get("depends_on", {}).items():
            assert wish["condition"] != "service_healthy" or "healthcheck" in stack["services"][other], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_what_is_mounted_is_there(stack: dict[str, Any]) -> None:
    mounts = [volume.split(":")[0] for volume in stack["services"]["airflow"]["volumes"]]
    (tree,) = [FOLDER / path for path in mounts if path.startswith(".")]
    assert (tree / "pyproject.toml").exists()
    assert (tree / "dags").is_dir()


def test_connections_are_what_muster_takes(stack: dict[str, Any]) -> None:
    said = stack["services"]["airflow"]["environment"]
    connections = {name: json.loads(value) for name, value in said.items() if name.startswith("AIRFLOW_CONN_")}
    engine = connections["AIRFLOW_CONN_MUSTER_DOCKER"]
    target = open_target({"type": engine["conn_type"].removeprefix("muster_"), **engine["extra"]})
    assert target.networks == (stack["networks"]["muster"]["name"],)  # type: ignore[attr-defined]
    keys = stack["services"]["store"]["environment"]
    store = connections["AIRFLOW_CONN_MUSTER_STORE"]
    assert (store["login"], store["password"]) == (keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"])
    assert store["extra"]["endpoint_url"] == "http://store:8333"
    assert "-s3.port=8333" in stack["services"]["store"]["command"]
