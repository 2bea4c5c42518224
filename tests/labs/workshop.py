"""A workshop for images: an engine, a base image, and packages made on the spot."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from frameworks import KEPT
from muster.core.errors import EnvironmentUnsolvable, MusterError
from muster.core.plan import EnvironmentRef
from muster.packaging.environment import lock
from muster.packaging.environment.pip_settings import PipSettings
from muster.packaging.image import image

HOROVOD = "muster/horovod"  # images that hold nothing but a wheel
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass
class Workshop:
    """An engine, a base image, and a folder of packages that pip and uv look into as well."""

    engine: DockerClient
    base: str
    cache: Path
    packages: Path
    made: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    def resolve(self, *packages: str) -> EnvironmentRef:
        return lock.lock_packages(packages, python=sys.executable, cache=self.cache, log=self.log.append)

    def ensure(self, ref: EnvironmentRef, base: str = "", log: list[str] | None = None, **options: Any) -> str:
        tell = self.log if log is None else log
        base = base or self.base
        self.made.add(image.image_name(ref, base, options.get("repository", "")))
        return image.ensure_image(self.engine.api, ref, base_image=base, log=tell.append, cache=self.cache, **options)

    def refusal(self, ref: EnvironmentRef, kind: type[MusterError] = EnvironmentUnsolvable, base: str = "") -> str:
        with pytest.raises(kind) as caught:
            self.ensure(ref, base)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def says(self, name: str, code: str) -> str:
        """Return what Python says in an image."""
        said: bytes = self.engine.containers.run(name, ["python", "-c", code], remove=True)
        return said.decode().strip()


@pytest.fixture
def workshop(engine: DockerClient, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    packages = tmp_path / "packages of mine"
    packages.mkdir()
    found_already = PipSettings.read(os.environ).options.get("find-links", ())
    monkeypatch.setenv("PIP_FIND_LINKS", " ".join((packages.as_uri(), *found_already)))
    shop = Workshop(engine=engine, base=base_image, cache=tmp_path / "home", packages=packages)
    yield shop
    for name in shop.made - {base_image}:
        with contextlib.suppress(ImageNotFound):
            engine.images.remove(name, force=True)


@pytest.fixture(scope="session")
def kept_horovod(engine: DockerClient) -> Iterator[None]:
    """Keep what Horovod was compiled to, for an engine that has it not; nothing is compiled twice."""
    folder = KEPT / "horovod"
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.tar"):
        if not engine.images.list(f"{HOROVOD}:{file.stem}"):
            with file.open("rb") as packed:
                engine.images.load(packed)
    yield
    for built in engine.images.list(HOROVOD):
        for tag in (name.partition(":")[2] for name in built.tags if name.startswith(f"{HOROVOD}:")):
            if not (folder / f"{tag}.tar").exists():
                scratch = folder / f"{tag}.{os.getpid()}"
                with scratch.open("wb") as packed:
                    packed.writelines(built.save(named=f"{HOROVOD}:{tag}"))
                scratch.rename(folder / f"{tag}.tar")


def unique() -> str:
    return f"n{uuid.uuid4().hex[:12]}"
