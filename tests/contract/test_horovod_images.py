"""Horovod in the images that Muster builds for the backend ``mpi``: compiled for the locked framework, once for it."""

from __future__ import annotations

import dataclasses

import pytest

from frameworks import Frameworks
from muster.core.plan import EnvironmentRef
from muster.packaging.image.recipe import framework_pins, recipe_of
from workshop import OWN, Workshop

COMPILING = 1800  # seconds; a quiet machine of two cores takes four minutes
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ON_ONE_MACHINE = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2"]
TORCH = (
    "import torch, horovod.torch as hvd; hvd.init(); assert hvd.mpi_built() and not hvd.gloo_built(); "
    "print('sum', float(hvd.allreduce(torch.tensor([1.0 + hvd.rank()]), op=hvd.Sum)), 'of', hvd.size())"
)
TENSORFLOW = (
    "import tensorflow as tf, horovod.tensorflow as hvd; hvd.init(); assert hvd.mpi_built() and not hvd.gloo_built(); "
    "print('sum', float(hvd.allreduce(tf.constant([1.0 + hvd.rank()]), op=hvd.Sum)[0]), 'of', hvd.size())"
)


@pytest.mark.timeout(COMPILING)
@pytest.mark.usefixtures("kept_horovod")
@pytest.mark.parametrize(
    ("packages", "code"),
    [(("torch==2.13.0", "numpy"), TORCH), (("tensorflow-cpu==2.21.0",), TENSORFLOW)],
    ids=["torch", "tensorflow"],
)
def test_two_ranks_reduce_by_horovod(workshop: Workshop, frameworks: Frameworks, packages: tuple[str, ...], code: str) -> None:
    workshop.cache = frameworks.root  # what is locked there is compiled by one worker, and used by all
    ref = dataclasses.replace(workshop.resolve(*packages), mpi=True)
    name = workshop.ensure(ref)
    argv = [*ON_ONE_MACHINE, "python", "-c", code]
    said = workshop.engine.containers.run(name, argv, environment=AS_ROOT, remove=True).decode()
    assert [line for line in said.splitlines() if line.startswith("sum")] == ["sum 3.0 of 2"] * 2


def locked(*lines: str, **fields: object) -> EnvironmentRef:
    ref = EnvironmentRef(digest="sha256:0", lock="".join(f"{line}\n" for line in lines), python=OWN, mpi=True)
    return dataclasses.replace(ref, **fields)  # type: ignore[arg-type]


def horovod_of(ref: EnvironmentRef, base: str = "base:1") -> str:
    wanted = recipe_of(ref, base, "")
    assert wanted is not None
    return wanted.beside.name if wanted.beside else ""


def test_other_packages_and_other_steps_compile_nothing_anew() -> None:
    plain = locked("torch==2.13.0+cpu", "numpy==2.4.6")
    assert horovod_of(plain).startswith("muster/horovod:")
    assert horovod_of(locked("torch==2.13.0+cpu", "numpy==2.4.6", "six==1.17.0", steps=("true",))) == horovod_of(plain)


@pytest.mark.parametrize(
    "other", [locked("torch==2.14.0"), locked("torch==2.13.0+cpu", python="3.12"), locked("torch==2.13.0+cpu", gpu=True)]
)
def test_another_framework_python_or_device_is_another_horovod(other: EnvironmentRef) -> None:
    assert horovod_of(other) != horovod_of(locked("torch==2.13.0+cpu"))


def test_no_framework_no_backend_or_two_frameworks_have_none() -> None:
    assert horovod_of(locked("mpi4py==4.1.2")) == ""
    assert horovod_of(locked("torch==2.13.0", mpi=False)) == ""
    assert horovod_of(locked("torch==2.13.0", "tensorflow-cpu==2.21.0")) == ""
    assert framework_pins("tensorflow-cpu==2.21.0\ntf-keras==2.21.0\n") == {"tensorflow": "tensorflow-cpu==2.21.0"}


def test_a_wish_for_horovod_itself_says_its_version() -> None:
    wanted = recipe_of(locked("horovod==0.28.0", "torch==2.13.0"), "base:1", "")
    assert wanted is not None
    assert wanted.packages == "torch==2.13.0\n"
    assert wanted.beside is not None
    assert wanted.beside.sources == ("horovod==0.28.0",)
