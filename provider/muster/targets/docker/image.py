"""Images on an engine: which one a plan's environment means, and what its configuration says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import RequestError
from muster.core.plan import EnvironmentRef
from muster.targets.contract import Log
from muster.targets.docker.errors import explained
from muster.targets.options import default_root

if TYPE_CHECKING:
    from docker import APIClient

BUILT_PYTHON = "/opt/muster/env/bin/python"  # of the ranks, in an image that was built for an environment


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that is on the engine: ``name`` as it was asked for, ``id``, and the ``user`` it wants to run as."""

    name: str
    id: str
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images a target uses. ``repository``: where built ones are pushed to and pulled from, "" for the engine alone."""

    base: str = ""
    gpu_base: str = ""
    repository: str = ""
    login: dict[str, str] = field(default_factory=dict, repr=False)

    def base_of(self, ref: EnvironmentRef) -> str:
        """Return the image on which an environment is built."""
        from muster.packaging.image import image

        return image.base_image_of(ref, base_image=self.base, gpu_base_image=self.gpu_base)

    def name_of(self, ref: EnvironmentRef) -> str:
        """Return the name of the image that an environment means."""
        from muster.packaging.image import image

        return image.image_name(ref, self.base_of(ref), self.repository)

    def ensure(self, client: APIClient, ref: EnvironmentRef, engine_url: str, log: Log) -> Image:
        """Find the image of an environment, or pull or build it.

        :raises RequestError: the image is not available; with the reason.
        """
        from muster.packaging.image import image

        with explained("preparing the image", engine_url):
            base = self.base_of(ref)
            cache = Path(default_root()).expanduser()
            name = image.ensure_image(
                client, ref, base_image=base, repository=self.repository, login=self.login, log=log, cache=cache
            )
        found = find_image(client, name, engine_url)
        if found is None:
            raise RequestError(f"image {name} is not on {engine_url} though it was fetched; look at the engine's own log")
        return found


def is_built(ref: EnvironmentRef) -> bool:
    """Return whether an environment needs an image of its own, rather than the user's or the bare base image."""
    return not ref.image and bool(ref.digest or ref.apt_packages or ref.steps or ref.mpi)


def python_of(ref: EnvironmentRef) -> str:
    """Return the program that runs the agent, and the ranks unless they have an interpreter of their own."""
    return BUILT_PYTHON if is_built(ref) else "python3"


def find_image(client: APIClient, name: str, engine_url: str) -> Image | None:
    """Return an image that is on the engine."""
    import docker.errors

    with explained(f"looking for image {name}", engine_url):
        try:
            found: dict[str, Any] = client.inspect_image(name)  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return None
    return Image(name=name, id=found["Id"], user=found["Config"].get("User") or "")
