"""What only containers have is refused where there are none; what makes no difference is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lab import plan_of
from muster.core.errors import RequestError
from muster.core.job import Mount
from muster.core.plan import ContainerOptions, EnvironmentRef
from muster.targets import bare_metal

PLAN = plan_of("", "s3://b")


@pytest.mark.parametrize(
    ("environment", "arguments", "word"),
    [
        (EnvironmentRef(image="mine:1"), (), "image = 'mine:1'"),
        (EnvironmentRef(apt_packages=("git", "vim")), (), "apt_packages = 'git vim'"),
        (EnvironmentRef(steps=("RUN x",)), (), "steps"),
        (EnvironmentRef(), ("--ipc=host",), "docker_arguments"),
    ],
)
def test_wishes_of_containers_are_refused(environment: EnvironmentRef, arguments: tuple[str, ...], word: str) -> None:
    plan = dataclasses.replace(PLAN, environment=environment, container=ContainerOptions(arguments=arguments))
    with pytest.raises(RequestError, match="choose a docker target") as caught:
        bare_metal.check_plan(plan, "rack", print)
    assert word in str(caught.value)


def test_a_mount_must_be_there_under_its_own_name(tmp_path: Path) -> None:
    def check(source: str, target: str) -> None:
        options = ContainerOptions(mounts=(Mount(source=source, target=target),))
        bare_metal.check_plan(dataclasses.replace(PLAN, container=options), "local", print)

    check(str(tmp_path), str(tmp_path))
    with pytest.raises(RequestError, match="can't be shown at"):
        check(str(tmp_path), "/data")
    with pytest.raises(RequestError, match="there is no folder"):
        check("/no/such/folder", "/no/such/folder")


def test_a_base_image_plays_no_part_and_that_is_said() -> None:
    said: list[str] = []
    bare_metal.check_plan(dataclasses.replace(PLAN, environment=EnvironmentRef(base_image="b:1")), "local", said.append)
    assert said == ["base image b:1 plays no part on target local: its nodes are no containers"]
