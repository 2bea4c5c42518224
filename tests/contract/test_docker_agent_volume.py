"""The agent's volume on an engine: whatever happened to the container that filled it, no job starts on an empty one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from docker_lab import DockerLab
from lab import lines, new_job_id, plan_of
from muster.core.plan import EnvironmentRef
from muster.core.state import RunState
from muster.targets.docker import agent_volume, engine
from muster.targets.docker.image import Image

ENGINE_URL, PYTHON = "the engine", "python3"


@pytest.fixture
def image(docker_lab: DockerLab) -> Image:
    """Return the base image."""
    made = docker_lab.engine.images.get(docker_lab.base_image)
    return Image(id=made.id, name=docker_lab.base_image)


@pytest.fixture
def volume(docker_lab: DockerLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the name of the volume, which is the test's own."""
    name = f"muster-agent-{new_job_id()}"
    monkeypatch.setattr(agent_volume, "volume_name", lambda *_: name)
    yield name
    docker_lab.close()
    agent_volume._undo(docker_lab.engine.api, agent_volume._filler(name), name)


def forget_the_filler(lab: DockerLab, volume: str) -> None:
    """Make what is left where a worker was killed while it filled the volume, and `docker container prune` came by."""
    lab.engine.api.create_volume(volume, labels={agent_volume.LABEL: volume, agent_volume.MEMLOCK: "as it is"})


def is_filled(lab: DockerLab, image: Image, volume: str) -> bool:
    found = agent_volume.find_volume(lab.engine.api, volume, ENGINE_URL)
    assert found is not None
    container = lab.engine.containers.create(image.id, mounts=[dict(found.mount)])
    try:
        return agent_volume._is_filled(lab.engine.api, container.id, ENGINE_URL)
    finally:
        container.remove()


def test_a_job_runs_though_the_volume_was_left_empty(docker_lab: DockerLab, image: Image, volume: str) -> None:
    forget_the_filler(docker_lab, volume)
    plan = dataclasses.replace(plan_of("print('it runs')", docker_lab.store.uri), environment=EnvironmentRef(image=image.id))
    handle = docker_lab.submit(plan)
    outcome, events = docker_lab.wait(handle)
    assert outcome.state is RunState.COMPLETED, outcome.verdict
    assert sorted(lines(events)) == ["it runs"] * len(plan.nodes)
    docker_lab.target.release(handle)
    assert is_filled(docker_lab, image, volume)


def test_a_filler_that_is_pruned_before_it_starts_is_made_anew(
    docker_lab: DockerLab, image: Image, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, api = agent_volume._content, docker_lab.engine.api
    pruned: list[bool] = []

    def prune_meanwhile() -> bytes:
        if not pruned:
            pruned.append(True)
            api.remove_container(agent_volume._filler(volume))
        return content()

    monkeypatch.setattr(agent_volume, "_content", prune_meanwhile)
    agent_volume.ensure_volume(api, image, PYTHON, ENGINE_URL, lambda line: None)
    assert pruned
    assert is_filled(docker_lab, image, volume)


@pytest.mark.parametrize("leave", [lambda *_: None, forget_the_filler], ids=["volume made by it", "volume left before"])
def test_a_filler_whose_worker_died_is_removed_with_its_volume(
    docker_lab: DockerLab, image: Image, volume: str, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Any, str], None]
) -> None:
    monkeypatch.setattr(agent_volume, "FILL_TIME", 0.2)
    leave(docker_lab, volume)
    filling = agent_volume._Filling(name=volume, image=image.name, python=PYTHON, engine_url=ENGINE_URL)
    engine.create_container(docker_lab.engine.api, agent_volume._config(filling), agent_volume._filler(volume))
    agent_volume.ensure_volume(docker_lab.engine.api, image, PYTHON, ENGINE_URL, lambda line: None)
    assert is_filled(docker_lab, image, volume)
