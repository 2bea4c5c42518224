"""EngineImages and a real registry: pushed once, pulled instead of built; the password is in nothing that stays."""

from __future__ import annotations

import dataclasses
import json

import pytest

from muster.core.errors import TargetError
from muster.core.plan import EnvironmentRef
from packages import make_wheel
from registry_server import PASSWORD, Registry, registry  # noqa: F401 - a fixture
from workshop import OWN, Workshop, unique


def built(log: list[str]) -> int:
    return sum(line.startswith("building image") for line in log)


def test_pushed_by_the_first_and_pulled_by_the_second(workshop: Workshop, registry: Registry) -> None:  # noqa: F811
    name = unique()
    make_wheel(workshop.packages, name, "2.0")
    ref = workshop.resolve(name)
    where = {"repository": f"{registry.host}/team/images", "login": registry.login}
    first = workshop.ensure(ref, **where)
    assert first.startswith(f"{registry.host}/team/images:")
    assert built(workshop.log) == 1
    workshop.engine.images.remove(first, force=True)
    assert workshop.ensure(ref, **where) == first
    assert built(workshop.log) == 1, "pulled, not built"
    assert workshop.says(first, f"import {name}; print({name}.VERSION)") == "2.0"
    assert PASSWORD not in "\n".join(workshop.log)
    assert PASSWORD not in json.dumps([workshop.engine.api.inspect_image(first), workshop.engine.api.history(first)])


@pytest.mark.parametrize("login", [None, {"username": "muster", "password": "another"}])
def test_a_registry_that_does_not_take_it(
    workshop: Workshop,
    registry: Registry,  # noqa: F811
    login: dict[str, str] | None,
) -> None:
    ref = EnvironmentRef(python=OWN, steps=(f"echo {unique()}",))
    with pytest.raises(TargetError, match=r"was built, but can't be pushed: .*registry_login") as caught:
        workshop.ensure(ref, repository=f"{registry.host}/team/images", login=login)
    assert "\n" not in str(caught.value)
    assert "another" not in str(caught.value)


def test_the_login_is_for_its_own_registry_alone(workshop: Workshop, registry: Registry) -> None:  # noqa: F811
    from muster.packaging.image.registry import EngineImages

    images = EngineImages(client=workshop.engine.api, repository=f"{registry.host}/team/images", login=registry.login)
    assert images._login_for(f"{registry.host}/other:1") == registry.login
    assert images._login_for("python:3.11-slim") is None
    elsewhere = dataclasses.replace(images, login={**registry.login, "server": "https://index.docker.io/v1/"})
    assert elsewhere._login_for("team/private:1") == registry.login
    assert elsewhere._login_for(f"{registry.host}/other:1") is None
