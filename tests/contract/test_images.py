"""Environments as images on a real engine: built once, found again, and refused with the reason."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from muster.core.errors import RequestError, TargetError
from muster.core.plan import EnvironmentRef
from muster.packaging.image import image
from muster.packaging.image.recipe import PYTHON
from packages import BROKEN, EXTENSION, make_source, make_wheel
from workshop import OWN, Workshop, unique


def building(log: list[str]) -> list[str]:
    return [line for line in log if line.startswith("building image")]


def test_an_environment_is_built_once_and_found_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    name = unique()
    make_wheel(workshop.packages, name, "1.5")
    ref = workshop.resolve(name)
    built = workshop.ensure(ref)
    assert built == image.image_name(ref, workshop.base)
    assert workshop.says(built, f"import sys, {name}; print(sys.executable, {name}.VERSION)") == f"{PYTHON} 1.5"
    assert len(building(workshop.log)) == 1
    assert any("installing the packages" in line for line in workshop.log)
    asked: list[str] = []
    real = workshop.engine.api.get
    monkeypatch.setattr(workshop.engine.api, "get", lambda url, **kw: (asked.append(url), real(url, **kw))[1])
    monkeypatch.setattr(workshop.engine.api, "post", lambda *_, **__: pytest.fail("something was made"))
    assert workshop.ensure(ref) == built
    assert len(asked) == 1, "one question to the engine"


def test_what_is_in_it_decides_its_name(workshop: Workshop) -> None:
    ref = EnvironmentRef(digest="sha256:0", lock="six==1.17.0\n", python=OWN)
    others = [
        ref,
        dataclasses.replace(ref, lock="six==1.16.0\n"),
        dataclasses.replace(ref, apt_packages=("tree",)),
        dataclasses.replace(ref, steps=("true",)),
        dataclasses.replace(ref, gpu=True),
        dataclasses.replace(ref, mpi=True),
    ]
    names = [image.image_name(other, workshop.base) for other in others] + [image.image_name(ref, "debian:12")]
    assert len(set(names)) == len(names)
    assert all(name.startswith("muster/env:") for name in names)
    assert image.image_name(ref, workshop.base, "registry.example:5000/team/images").startswith(
        "registry.example:5000/team/images:"
    )


def test_nothing_wished_is_the_base_image_itself(workshop: Workshop) -> None:
    assert workshop.ensure(EnvironmentRef(python=OWN)) == workshop.base
    assert not building(workshop.log)


def test_a_users_own_image_is_used_as_it_is(workshop: Workshop) -> None:
    assert workshop.ensure(EnvironmentRef(image=workshop.base), base="none.invalid/x") == workshop.base


class OneOfTwo(list[str]):
    """What one of two that build the same is told; whoever builds goes on only once the other waits."""

    def __init__(self, waits: threading.Event) -> None:
        self._waits = waits

    def append(self, line: str) -> None:
        super().append(line)
        if line.startswith("waiting for another process"):
            self._waits.set()
        if line.startswith("building image"):
            assert self._waits.wait(120)


def test_two_that_build_the_same_do_it_once(workshop: Workshop) -> None:
    name = unique()
    make_wheel(workshop.packages, name, "1.0")
    ref = workshop.resolve(name)
    waits = threading.Event()
    logs = [OneOfTwo(waits), OneOfTwo(waits)]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda log: workshop.ensure(ref, "", log), logs))
    assert made[0] == made[1]
    assert sorted(len(building(log)) for log in logs) == [0, 1]


def test_a_package_that_does_not_compile_says_so_in_its_own_words(workshop: Workshop) -> None:
    name = unique()
    make_source(workshop.packages, name, "1.0", BROKEN)
    said = workshop.refusal(workshop.resolve(name))
    assert "the sea is rough today" in said
    assert "installing the packages failed with exit code 1" in said


def test_a_source_distribution_is_compiled_and_leaves_no_compiler(workshop: Workshop) -> None:
    name = unique()
    make_source(workshop.packages, name, "1.0", EXTENSION)
    built = workshop.ensure(workshop.resolve(name))
    code = f"import shutil, {name}; print({name}.answer(), shutil.which('gcc'))"
    assert workshop.says(built, code) == "42 None"


def test_apt_packages_and_steps_come_in_order(workshop: Workshop) -> None:
    steps = ('echo "a $HOME \\" b" > /said', 'tree --version && python -c \'import sys; open("/said", "a").write(sys.prefix)\'')
    ref = dataclasses.replace(EnvironmentRef(python=OWN), apt_packages=("tree",), steps=steps)
    built = workshop.ensure(ref)
    assert workshop.says(built, "print(open('/said').read())") == 'a /root " b\n/opt/muster/env'


# -- refusals


def test_a_package_that_can_not_be_downloaded(workshop: Workshop) -> None:
    said = workshop.refusal(EnvironmentRef(digest="sha256:1", lock="no-such-package-of-ours==1.0\n", python=OWN))
    assert "No matching distribution found for no-such-package-of-ours==1.0" in said


def test_an_unknown_apt_package(workshop: Workshop) -> None:
    said = workshop.refusal(EnvironmentRef(python=OWN, apt_packages=("no-such-package-of-ours",)))
    assert "installing apt_packages no-such-package-of-ours failed" in said
    assert "Unable to locate package no-such-package-of-ours" in said


def test_a_failing_step_is_named_and_leaves_no_container(workshop: Workshop) -> None:
    mark = unique()
    said = workshop.refusal(EnvironmentRef(python=OWN, steps=("true", f"echo the end of {mark}; exit 7")), RequestError)
    assert "build_steps[1]" in said
    assert f"exit code 7: the end of {mark}" in said
    assert not [box for box in workshop.engine.api.containers(all=True) if mark in box["Command"]]


def test_no_space_left(workshop: Workshop) -> None:
    # the memory disk of the build's container is as good a full disk as any
    said = workshop.refusal(EnvironmentRef(python=OWN, steps=("head -c 999999999 /dev/zero > /dev/shm/full",)), TargetError)
    assert "no space left on the engine's disk" in said


def test_a_base_image_that_can_not_be_had(workshop: Workshop) -> None:
    said = workshop.refusal(EnvironmentRef(python=OWN, steps=("true",)), base="127.0.0.1:9/none/such:1")
    assert said.startswith("image 127.0.0.1:9/none/such:1 is not available: ")
    assert "refused" in said


def test_a_base_image_without_python(workshop: Workshop) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    bare = f"muster-tests/bare:{unique()}"
    workshop.made.add(bare)
    repository, _, tag = bare.partition(":")
    workshop.engine.api.import_image_from_data(packed.getvalue(), repository=repository, tag=tag)
    said = workshop.refusal(EnvironmentRef(python=OWN, steps=("true",)), RequestError, base=bare)
    assert said.startswith(f"base image {bare} has no python3 that runs")


def test_a_base_image_with_another_python(workshop: Workshop) -> None:
    said = workshop.refusal(EnvironmentRef(digest="sha256:2", lock="six==1.17.0\n", python="3.99"), RequestError)
    assert f"has Python {OWN}" in said
    assert "resolved for Python 3.99" in said
    assert f"set python_version to '{OWN}'" in said
