"""BuildTrainingImageOperator: the image that a training would build, ahead of it; code is no part of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from air import Air

from packages import make_wheel
from workshop import Workshop, unique


@pytest.fixture
def air(
    airflow_db: None,
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Air:
    """Return Airflow with a connection ``engine``."""
    extra = {"target": "docker", "base_image": workshop.base}
    monkeypatch.setenv("AIRFLOW_CONN_ENGINE", json.dumps({"conn_type": "muster", "extra": extra}))
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    source = tmp_path / "source"
    source.mkdir()
    return Air(store=None, target=None, source=source, capture=capfd)  # type: ignore[arg-type]


Build = Callable[..., Any]


@pytest.fixture
def build(air: Air, request: pytest.FixtureRequest) -> Build:
    """Run a DAG of the one task; give the DAG run."""
    from airflow.sdk import DAG

    from muster.operators.build_image import BuildTrainingImageOperator

    def run(**parameters: Any) -> Any:
        with DAG(f"{request.node.name.split('[')[0]}-{unique()}") as dag:
            BuildTrainingImageOperator(
                task_id="build", **{"compute_target": "engine", "source_directory": str(air.source), **parameters}
            )
        return air.run(dag)

    return run


def test_built_ahead_and_found_after_a_change_of_the_code(air: Air, build: Build, workshop: Workshop) -> None:
    name = unique()
    make_wheel(workshop.packages, name, "3.0")
    air.script("print('one')")
    first = air.returned(build(pip_packages=[name]), "build")
    workshop.made.add(first["image"])
    assert first["lock"] == f"{name}==3.0\n"
    assert first["digest"] == workshop.engine.images.get(first["image"]).id
    assert "installing the packages" in air.log
    air.script("print('two')")
    assert air.returned(build(pip_packages=[name]), "build") == first
    assert "building image" not in air.log


def test_the_same_image_as_a_train_operator_asks_for(air: Air, build: Build, workshop: Workshop) -> None:
    from muster import runner
    from muster.packaging.image import image
    from muster.request.training_job import training_job

    name = unique()
    make_wheel(workshop.packages, name, "3.0")
    air.script("")
    wishes = {"pip_packages": [name], "build_steps": ["true"], "framework": "any"}
    built = air.returned(build(**wishes), "build")["image"]
    workshop.made.add(built)
    rest = {"source_directory": str(air.source), "entry_script": "train.py", "store": "s3://b/p", "node_count": 1}
    planned = runner.plan_job(training_job({**wishes, **rest}, base="/"), log=print)
    assert image.image_name(planned.plan.environment, workshop.base) == built


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"compute_target": "local"}, "runs no containers and has no images"),
        ({"environment": {"interpreter": sys.executable, "user_managed_dependencies": True}}, "which is in no image"),
        ({"pip_packages": ["no-such-package-of-ours"]}, "no-such-package-of-ours was not found"),
        ({"framework": "abacus"}, "abacus"),
    ],
)
def test_refused_with_the_reason(air: Air, build: Build, parameters: dict[str, Any], reason: str) -> None:
    assert build(**parameters).state == "failed"
    assert reason in air.log
