"""Recipes: the Dockerfiles of images, and the name of each image, a digest of all that goes into it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from muster.core.codec import digest
from muster.core.plan import EnvironmentRef
from muster.packaging.environment.lock import pinned
from muster.packaging.image.dockerfiles import dockerfile_text

RECIPE_VERSION = 1
OWN = "muster"  # first part of the names of images that stay on their engine
ENV = "/opt/muster/env"
PYTHON = f"{ENV}/bin/python"  # the ranks' interpreter in a built image
HOROVOD_VERSION = "0.28.1"
HOROVOD_NEEDS = ("setuptools", "wheel", "packaging", "cloudpickle", "psutil", "pyyaml", "cffi")
PIP_FILE = "pip.whl"  # in the context; runs without being installed
_HEADERS = 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'


_PURPOSES = {
    "pip wheel": "compiling Horovod",
    "pip install": "installing the framework for compiling Horovod",
    "apt-get install": "installing packages of the system",
}


@dataclass(frozen=True, kw_only=True)
class HorovodFramework:
    """A framework that Horovod is compiled for: distributions, the folder of its Dockerfile and the argument for its pin."""

    distributions: tuple[str, ...]
    folder: str
    argument: str


HOROVOD_FRAMEWORKS = (
    HorovodFramework(distributions=("torch",), folder="pytorch", argument="TORCH"),
    HorovodFramework(
        distributions=("tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu"),
        folder="tensorflow",
        argument="TENSORFLOW",
    ),
)


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """One instruction of a Dockerfile, and its purpose in words for people."""

    text: str
    purpose: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One image to build: its name, Dockerfile, arguments, stage, and what is downloaded into its context.

    ``packages`` are pinned and complete, ``together`` are resolved with their dependencies. ``below`` is built first as the
    base image, ``beside`` as an image that this one copies from.
    """

    name: str
    what: str
    steps: tuple[BuildStep, ...]
    base: str
    arguments: tuple[tuple[str, str], ...] = ()
    stage: str = ""
    packages: str = ""
    together: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()  # pinned, downloaded as source distributions
    below: Recipe | None = None
    beside: Recipe | None = None

    @property
    def dockerfile(self) -> str:
        """The Dockerfile's text."""
        return "".join(f"{step.text}\n" for step in self.steps)


def recipe_of(ref: EnvironmentRef, base: str, repository: str) -> Recipe | None:
    """Return the recipe of an environment's image, without any request; None if it is the base image itself."""
    if not (ref.digest or ref.apt_packages or ref.steps or ref.mpi):
        return None
    mpi = _mpi(base, repository) if ref.mpi else None
    horovod = _horovod(ref, base, repository) if ref.mpi else None
    steps = tuple(_environment_steps(ref, horovod is not None))
    decisive = {
        "base": base,
        "lock": ref.lock,
        "python": ref.python,
        "gpu": ref.gpu,
        "text": [step.text for step in steps],
        "below": mpi.name if mpi else "",
        "beside": horovod.name if horovod else "",
    }
    return Recipe(
        name=_name("env", decisive, repository),
        what=f"environment {ref.digest[:19]}" if ref.digest else "environment",
        steps=steps,
        base=base,
        packages=_packages(ref, horovod is not None),
        below=mpi,
        beside=horovod,
    )


def framework_pins(lock: str) -> dict[str, str]:
    """Return the pinned requirement of each framework that Horovod can be compiled for, by the folder of its Dockerfile."""
    pins = pinned(lock)
    found = ((framework, name) for framework in HOROVOD_FRAMEWORKS for name in framework.distributions if name in pins)
    return {framework.folder: pins[name] for framework, name in reversed(list(found))}


# -- Open MPI, and Horovod for one version of one framework


def _mpi(base: str, repository: str) -> Recipe:
    steps = _shipped("mpi")
    name = _name("mpi", {"base": base, "text": [step.text for step in steps]}, repository)
    return Recipe(name=name, what="Open MPI", steps=steps, base=base)


def _horovod(ref: EnvironmentRef, base: str, repository: str) -> Recipe | None:
    pins = framework_pins(ref.lock)
    if len(pins) != 1:  # nobody maintains a Horovod for two frameworks
        return None
    ((folder, pin),) = pins.items()
    (framework,) = (framework for framework in HOROVOD_FRAMEWORKS if framework.folder == folder)
    source = pinned(ref.lock).get("horovod", f"horovod=={HOROVOD_VERSION}")
    steps = _shipped(folder)
    arguments = (
        (framework.argument, pin),
        ("HOROVOD", source),
        *((("HOROVOD_GPU_OPERATIONS", "NCCL"),) if ref.gpu else ()),
    )
    decisive = {"base": base, "python": ref.python, "arguments": arguments, "text": [step.text for step in steps]}
    return Recipe(
        name=_name("horovod", decisive, repository),
        what=f"Horovod for {pin}",
        steps=steps,
        base=base,
        arguments=arguments,
        stage="horovod",
        together=(pin, "numpy", *HOROVOD_NEEDS),
        sources=(source,),
    )


def _shipped(folder: str) -> tuple[BuildStep, ...]:
    """Return the instructions of a Dockerfile in docker/, without its comments."""
    text = dockerfile_text(folder)
    joined = re.sub(r"\\\n\s*", " ", "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#")))
    return tuple(BuildStep(text=line, purpose=_purpose(line)) for line in joined.splitlines() if line.strip())


def _purpose(instruction: str) -> str:
    """Return the purpose of an instruction of docker/ that may fail; "" for others."""
    return next((words for sign, words in _PURPOSES.items() if sign in instruction), "")


# -- an environment


def _environment_steps(ref: EnvironmentRef, horovod: bool) -> list[BuildStep]:
    steps = [BuildStep(text="ARG BASE_IMAGE"), *([BuildStep(text="ARG HOROVOD_IMAGE")] if horovod else [])]
    if horovod:
        steps.append(BuildStep(text="FROM ${HOROVOD_IMAGE} AS horovod"))
    steps += [BuildStep(text="FROM ${BASE_IMAGE} AS system"), BuildStep(text="USER root"), *_apt(ref.apt_packages)]
    if ref.lock.strip() or horovod:
        steps += _builder(ref, horovod)
        steps += [BuildStep(text="FROM system"), BuildStep(text=f"COPY --from=builder {ENV} {ENV}")]
    else:
        steps += [
            BuildStep(text="FROM system"),
            BuildStep(text=f"RUN python3 -m venv --without-pip {ENV}", purpose="making the environment"),
        ]
    steps.append(BuildStep(text=f"ENV PATH={ENV}/bin:$PATH"))
    for number, line in enumerate(ref.steps):
        steps.append(BuildStep(text=_run(line), purpose=f"build_steps[{number}] {line!r}"))
    return [*steps, BuildStep(text="ARG BASE_USER=root"), BuildStep(text="USER ${BASE_USER}")]


def _builder(ref: EnvironmentRef, horovod: bool) -> list[BuildStep]:
    """Return the stage that installs; it has compilers only where there is a source distribution to compile."""
    compilers = "build-essential" + (" libopenmpi-dev" if ref.mpi else "")
    pip = f"{PYTHON} /muster/{PIP_FILE}/pip --disable-pip-version-check"
    install = f"{pip} install --no-cache-dir --no-index --no-deps --root-user-action=ignore"
    steps = [
        BuildStep(text="FROM system AS builder"),
        BuildStep(text="COPY sources.txt /muster/"),
        BuildStep(
            text=_run(
                "if [ -s /muster/sources.txt ]; then apt-get update && DEBIAN_FRONTEND=noninteractive "
                f"apt-get install -y --no-install-recommends {compilers} $(python3 -c '{_HEADERS}' || echo python3-dev) "
                "&& rm -rf /var/lib/apt/lists/*; fi"
            ),
            purpose="installing compilers for the source distributions",
        ),
        BuildStep(text=f"COPY {PIP_FILE} /muster/"),
        _MAKE_ENV,
    ]
    if ref.lock.strip():
        packages = f"{install} --find-links /muster/build /muster/packages/*"
        steps.append(BuildStep(text="COPY build /muster/build"))
        steps.append(BuildStep(text="COPY packages /muster/packages"))
        steps.append(BuildStep(text=_run(packages), purpose="installing the packages"))
    if horovod:
        steps.append(BuildStep(text="COPY --from=horovod / /muster/horovod"))
        added = install.replace(" --no-deps", "") + " --find-links /muster/horovod horovod"
        steps.append(BuildStep(text=_run(added), purpose="installing Horovod"))
    return [*steps, *_STAGE]


_MAKE_ENV = BuildStep(text=f"RUN python3 -m venv --without-pip {ENV}", purpose="making the environment")
_STAGE = (BuildStep(text="ARG MUSTER_STAGE="), BuildStep(text="LABEL muster_stage=${MUSTER_STAGE}"))


def _apt(packages: tuple[str, ...]) -> list[BuildStep]:
    if not packages:
        return []
    line = (
        f"apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {' '.join(packages)} "
        "&& rm -rf /var/lib/apt/lists/*"
    )
    return [BuildStep(text=_run(line), purpose=f"installing apt_packages {', '.join(packages)}")]


def _run(line: str) -> str:
    # as JSON, so that the builder reads nothing into the line
    return f"RUN {json.dumps(['/bin/sh', '-c', line])}"


def _packages(ref: EnvironmentRef, horovod: bool) -> str:
    """Return the lines of the lock to install; without Horovod, which is compiled before."""
    lines = pinned(ref.lock)
    return "".join(f"{line}\n" for name, line in lines.items() if not (horovod and name == "horovod"))


def _name(kind: str, decisive: Mapping[str, object], repository: str) -> str:
    tag = digest({"version": RECIPE_VERSION, **decisive}).removeprefix("sha256:")[:32]
    if repository:
        return f"{repository}:{tag}" if kind == "env" else f"{repository}:{kind}-{tag}"
    return f"{OWN}/{kind}:{tag}"
