"""Environments as images: built once from a lock, found again by a name that says all that is in them."""

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
from muster.packaging.image.build_context import Context, Platform, here
from muster.packaging.image.recipe import Recipe, framework_pins, recipe
from muster.packaging.image.registry import Images, is_passing

if TYPE_CHECKING:
    from docker import APIClient

PROBE_LIMIT = 60  # seconds
_PROBE = (
    "import json, platform, sys; name, version = platform.libc_ver(); "
    "print(json.dumps(['%d.%d' % sys.version_info[:2], platform.machine(), name, version]))"
)


def base_image_of(ref: EnvironmentRef, *, base_image: str = "", gpu_base_image: str = "") -> str:
    """Give the image that an environment stands on: its own wish, else the target's, else the public one of its Python.

    The public one serves GPUs as well: the wheels of PyTorch and TensorFlow bring CUDA, the engine brings the driver.
    """
    own = here().python
    return ref.base_image or (gpu_base_image if ref.gpu else "") or base_image or f"python:{ref.python or own}-slim"


def image_name(ref: EnvironmentRef, base_image: str, repository: str = "") -> str:
    """Give the name of an environment's image, by all that goes into it; nothing is looked up."""
    if ref.image:
        return ref.image
    wanted = recipe(ref, base_image, repository)
    return wanted.name if wanted else base_image


def ensure(
    client: APIClient,
    ref: EnvironmentRef,
    *,
    base_image: str,
    repository: str = "",
    login: Mapping[str, str] | None = None,
    log: Log,
    cache: Path,
) -> str:
    """Give the name of an environment's image, which is then in the engine: found, else pulled, else built and pushed.

    ``login`` is ``{"username", "password"}``, with ``server`` where that is not the repository's registry. ``cache``:
    Muster's folder on this machine, on which two that build the same at once do it once.

    :raises EnvironmentUnsolvable: it can't be built or pulled; with the failing part's own reason.
    :raises RequestError: one of the user's steps fails, or base image and lock want different Pythons.
    :raises TargetError: the engine's disk is full or the engine gone; a registry does not take the image, or does not answer.
    """
    images = Images(client=client, repository=repository, login=login)
    wanted = None if ref.image else recipe(ref, base_image, repository)
    if wanted is None:
        _have(images, ref.image or base_image, log)
        return ref.image or base_image
    if images.identity(wanted.name) is None:
        if ref.mpi and len(framework_pins(ref.lock)) > 1:
            log("horovod is left out: it is compiled for one framework, and the environment has torch and tensorflow")
        _Builder(images=images, python=ref.python, cache=cache, log=log).make(wanted)
    return wanted.name


@dataclass(frozen=True, kw_only=True)
class _Builder:
    images: Images
    python: str
    cache: Path
    log: Log

    def make(self, wanted: Recipe) -> None:
        """Pull or build an image and what it stands on, unless another process is quicker."""
        with _turn(self.cache, wanted.name, self.log):
            if self.images.identity(wanted.name) or (self.images.repository and self._is_pulled(wanted)):
                return
            self._build(wanted)
            if self.images.repository:
                self.images.push(wanted.name, self.log)

    def _is_pulled(self, wanted: Recipe) -> bool:
        why = self.images.pull(wanted.name, self.log)
        if why:
            self.log(f"image {wanted.name} is not in its registry ({' '.join(why.split())}); building it")
        return not why

    def _build(self, wanted: Recipe) -> None:
        _have(self.images, wanted.base, self.log)
        platform = self._platform(wanted.base)
        for other in filter(None, (wanted.below, wanted.beside)):
            if self.images.identity(other.name) is None:
                self.make(other)
        self.log(f"building image {wanted.name}: {wanted.what} on {wanted.base}")
        with _folder(self.cache) as folder:
            context = Context(folder=folder, cache=self.cache, platform=platform, log=self.log)
            context.fill(wanted)
            with context.archive() as archive:
                build.build(self.images.client, wanted, self._arguments(wanted), archive, self.log)

    def _arguments(self, wanted: Recipe) -> dict[str, str]:
        below = {"BASE_IMAGE": wanted.below.name if wanted.below else wanted.base}
        beside = {"HOROVOD_IMAGE": wanted.beside.name} if wanted.beside else {}
        own = {"BASE_USER": self.images.user(wanted.base)} if "ARG BASE_USER" in wanted.dockerfile else {}
        return {**below, **beside, **own, **dict(wanted.arguments), build.STAGE: wanted.name}

    def _platform(self, base: str) -> Platform:
        """Give the platform of a base image, whose Python must be the lock's."""
        python, machine, name, version = json.loads(_probe(self.images.client, base))
        if self.python and python != self.python:
            raise RequestError(
                f"base image {base} has Python {python}, but the packages were resolved for Python {self.python}; set "
                f"python_version to {python!r}, or choose a base_image with Python {self.python}"
            )
        return Platform(python=python, machine=machine, glibc=int(version.split(".")[1]) if name == "glibc" else 0)


def _have(images: Images, name: str, log: Log) -> None:
    """See to it that an image which is not of our making is there."""
    if images.identity(name) is None:
        why = images.pull(name, log)
        if why:
            missing = f"image {name} can't be had: it is not on the engine, and pulling it failed: {' '.join(why.split())}"
            if is_passing(why):
                raise TargetError(f"{missing}; try again later, or load it into the engine")
            raise EnvironmentUnsolvable(f"{missing}; correct its name, or load it into the engine")


def _probe(client: APIClient, base: str) -> str:
    """Give what the Python of a base image says of itself."""
    import docker.errors

    missing = f"base image {base} has no python3 that runs; choose one that has it, such as python:{here().python}-slim"
    config = client.create_host_config(network_mode="none")
    made = client.create_container(base, ["-I", "-c", _PROBE], entrypoint=["python3"], host_config=config, user="0")
    try:
        client.start(made)
        code = client.wait(made, timeout=PROBE_LIMIT)["StatusCode"]
        said = client.logs(made, stdout=True, stderr=code != 0).decode(errors="replace")
    except docker.errors.APIError as error:
        raise _unprobed(str(error.explanation or error), missing) from error
    finally:
        client.remove_container(made, force=True, v=True)
    if code:
        raise RequestError(f"{missing}: exit code {code}: {' '.join(said.split())[-300:]}")
    return said


def _unprobed(words: str, missing: str) -> MusterError:
    if "python3" in words:
        return RequestError(missing)
    return build.failed(words, "the base image can't be started")


@contextmanager
def _turn(cache: Path, name: str, log: Log) -> Iterator[None]:
    """Hold the right to build an image on this machine; it is let go of when its process ends, however it ends."""
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
    """Give a folder for a build's context; what a build that was killed left is cleared by the next."""
    folder = Path(tempfile.mkdtemp(dir=cache / "images", prefix="context-"))
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            _clear(folder.parent)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _clear(images: Path) -> None:
    for lock in images.glob("context-*/lock"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # its build goes on, or has just ended
            continue
