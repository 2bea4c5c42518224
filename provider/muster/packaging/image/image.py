"""Builds an environment's image once from its lock; its name is a digest of all that goes into it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster.core.errors import EnvironmentUnsolvable, MusterError, RequestError, TargetError
from muster.core.plan import EnvironmentRef
from muster.packaging.environment.uv import Log
from muster.packaging.image import build
from muster.packaging.image.build_context import BuildContext, Platform, local_platform
from muster.packaging.image.recipe import Recipe, framework_pins, recipe_of
from muster.packaging.image.registry import EngineImages, is_transient

if TYPE_CHECKING:
    from docker import APIClient

PROBE_LIMIT = 60  # seconds
_PROBE = (
    "import json, platform, sys; name, version = platform.libc_ver(); "
    "print(json.dumps(['%d.%d' % sys.version_info[:2], platform.machine(), name, version]))"
)


def base_image_of(ref: EnvironmentRef, *, base_image: str = "", gpu_base_image: str = "") -> str:
    """Return the base image of an environment: its own, else the target's, else the public one of its Python.

    The public one is enough for GPUs: the wheels of PyTorch and TensorFlow contain CUDA, the engine adds the driver.
    """
    own = local_platform().python
    return ref.base_image or (gpu_base_image if ref.gpu else "") or base_image or f"python:{ref.python or own}-slim"


def image_name(ref: EnvironmentRef, base_image: str, repository: str = "") -> str:
    """Return the name of an environment's image, from all that goes into it, without any request."""
    if ref.image:
        return ref.image
    recipe = recipe_of(ref, base_image, repository)
    return recipe.name if recipe else base_image


def ensure_image(
    client: APIClient,
    ref: EnvironmentRef,
    *,
    base_image: str,
    repository: str = "",
    login: Mapping[str, str] | None = None,
    log: Log,
    cache: Path,
) -> str:
    """Provide an environment's image on the engine: found, else pulled, else built and pushed; return its name.

    ``login`` is ``{"username", "password"}``, with ``server`` where that is not the repository's registry. ``cache``:
    Muster's folder on this machine; of several processes that build the same image one does it.

    :raises EnvironmentUnsolvable: the image can't be built or pulled; with the failing part's own reason.
    :raises RequestError: one of the user's steps fails, or base image and lock have different Pythons.
    :raises TargetError: the engine's disk is full or the engine gone; a registry refuses the image, or does not answer.
    """
    images = EngineImages(client=client, repository=repository, login=login)
    recipe = None if ref.image else recipe_of(ref, base_image, repository)
    if recipe is None:
        _ensure_given(images, ref.image or base_image, log)
        return ref.image or base_image
    if images.identity(recipe.name) is None:
        if ref.mpi and len(framework_pins(ref.lock)) > 1:
            log("horovod is left out: it is compiled for one framework, and the environment has torch and tensorflow")
        _Builder(images=images, python=ref.python, cache=cache, log=log).make(recipe)
    return recipe.name


@dataclass(frozen=True, kw_only=True)
class _Builder:
    images: EngineImages
    python: str
    cache: Path
    log: Log

    def make(self, recipe: Recipe) -> None:
        """Pull or build an image and its base images, unless another process does it first."""
        with _build_lock(self.cache, recipe.name, self.log):
            if self.images.identity(recipe.name) or (self.images.repository and self._is_pulled(recipe)):
                return
            self._build(recipe)
            if self.images.repository:
                self.images.push(recipe.name, self.log)

    def _is_pulled(self, recipe: Recipe) -> bool:
        why = self.images.pull(recipe.name, self.log)
        if why:
            self.log(f"image {recipe.name} is not in its registry ({' '.join(why.split())}); building it")
        return not why

    def _build(self, recipe: Recipe) -> None:
        _ensure_given(self.images, recipe.base, self.log)
        platform = self._platform(recipe.base)
        for other in filter(None, (recipe.below, recipe.beside)):
            if self.images.identity(other.name) is None:
                self.make(other)
        self.log(f"building image {recipe.name}: {recipe.what} on {recipe.base}")
        with _folder(self.cache) as folder:
            context = BuildContext(folder=folder, cache=self.cache, platform=platform, log=self.log)
            context.fill(recipe)
            with context.archive() as archive:
                build.build(self.images.client, recipe, self._arguments(recipe), archive, self.log)

    def _arguments(self, recipe: Recipe) -> dict[str, str]:
        below = {"BASE_IMAGE": recipe.below.name if recipe.below else recipe.base}
        beside = {"HOROVOD_IMAGE": recipe.beside.name} if recipe.beside else {}
        own = {"BASE_USER": self.images.user(recipe.base)} if "ARG BASE_USER" in recipe.dockerfile else {}
        return {**below, **beside, **own, **dict(recipe.arguments), build.STAGE: recipe.name}

    def _platform(self, base: str) -> Platform:
        """Return the platform of a base image, whose Python must be the lock's."""
        python, machine, name, version = json.loads(_probe(self.images.client, base))
        if self.python and python != self.python:
            raise RequestError(
                f"base image {base} has Python {python}, but the packages were resolved for Python {self.python}; set "
                f"python_version to {python!r}, or choose a base_image with Python {self.python}"
            )
        return Platform(python=python, machine=machine, glibc=int(version.split(".")[1]) if name == "glibc" else 0)


def _ensure_given(images: EngineImages, name: str, log: Log) -> None:
    """Pull an image that Muster does not build, unless the engine has it."""
    if images.identity(name) is None:
        why = images.pull(name, log)
        if why:
            missing = (
                f"image {name} is not available: the engine does not have it, and pulling it failed: {' '.join(why.split())}"
            )
            if is_transient(why):
                raise TargetError(f"{missing}; try again later, or load it into the engine")
            raise EnvironmentUnsolvable(f"{missing}; correct its name, or load it into the engine")


def _probe(client: APIClient, base: str) -> str:
    """Return what the Python of a base image reports of itself."""
    import docker.errors

    missing = (
        f"base image {base} has no python3 that runs; choose one that has it, such as python:{local_platform().python}-slim"
    )
    config = client.create_host_config(network_mode="none")
    container = client.create_container(base, ["-I", "-c", _PROBE], entrypoint=["python3"], host_config=config, user="0")
    try:
        client.start(container)
        code = client.wait(container, timeout=PROBE_LIMIT)["StatusCode"]
        output = client.logs(container, stdout=True, stderr=code != 0).decode(errors="replace")
    except docker.errors.APIError as error:
        raise _probe_error(str(error.explanation or error), missing) from error
    finally:
        client.remove_container(container, force=True, v=True)
    if code:
        raise RequestError(f"{missing}: exit code {code}: {' '.join(output.split())[-300:]}")
    return output


def _probe_error(words: str, missing: str) -> MusterError:
    if "python3" in words:
        return RequestError(missing)
    return build.engine_error(words, "the base image can't be started")


@contextmanager
def _build_lock(cache: Path, name: str, log: Log) -> Iterator[None]:
    """Hold the lock of an image's build on this machine, which the kernel releases when its process ends."""
    folder = cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting for another process that builds image {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _folder(cache: Path) -> Iterator[Path]:
    """Yield a folder for a build's context; the next build removes what a killed one left."""
    folder = Path(tempfile.mkdtemp(dir=cache / "images", prefix="context-"))
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            _remove_abandoned(folder.parent)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(images: Path) -> None:
    for lock in images.glob("context-*/lock"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # its build is running, or has just ended
            continue
