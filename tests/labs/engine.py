"""Fixtures of containers: a Docker engine, a base image in it, and a store that containers and this machine both reach."""

from __future__ import annotations

import io
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import base_image as base_images
import children
import seaweedfs
from store_server import Store, StoreServer, wait_until

if TYPE_CHECKING:
    from docker import DockerClient

CHOSEN = "MUSTER_TEST_BASE_IMAGE"
LABELS = {"muster.tests": str(os.getpid())}
S3_PORT = 8333


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerClient]:
    """Yield a client of a running engine: the one that runs, which is left as it is, else one started for these tests."""
    import docker

    if _answers():
        yield docker.from_env(timeout=120)
        return
    daemon = shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if os.environ.get("DOCKER_HOST") or daemon is None or os.geteuid() != 0:
        pytest.skip("no Docker engine answers, and this user can't start one; scripts/system.sh sets one up")
    log = tmp_path_factory.mktemp("dockerd") / "dockerd.log"
    with children.running([daemon], log, os.environ, grace=30.0) as process:
        wait_until(lambda: process.poll() is not None or _answers(), every=0.2, what=f"dockerd answers; its log is {log}")
        assert process.poll() is None, f"dockerd ended with {process.returncode}:\n{children.tail(log)}"
        yield docker.from_env(timeout=120)


@pytest.fixture(scope="session")
def base_image(engine: DockerClient) -> str:
    """Return the name of an image with Python in the engine: a public one where there is a registry, else one made here."""
    if os.environ.get(CHOSEN):
        return os.environ[CHOSEN]
    try:
        return base_images.ensure(engine, f"{sys.version_info.major}.{sys.version_info.minor}")
    except base_images.NoBaseImage as error:
        pytest.skip(f"no base image: {error}")


@dataclass
class DockerStoreServer(StoreServer):
    """``weed mini`` in a container, with an address on a network of its own; data and address outlive ``stop()``.

    ``prefix``: the first three numbers of its addresses, "" for any.
    """

    engine: Any = None
    image: str = ""
    prefix: str = ""
    network: str = ""
    address: str = ""
    _container: Any = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{S3_PORT}"

    def start(self) -> None:
        if self._container is None:
            self._container = self._made()
        self._container.start()
        wait_until(self._is_ready, seaweedfs.START_LIMIT, 0.1, "SeaweedFS in a container is up")

    def stop(self) -> None:
        """End the server; its data stays."""
        if self._container is not None:
            self._container.stop(timeout=2)

    def remove(self) -> None:
        """Remove container and network; with whatever a test left in that network unplugged."""
        if self._container is not None:
            self._container.remove(force=True, v=True)
        for network in self.engine.networks.list(names=[self.network]) if self.network else ():
            network.reload()
            for left in network.attrs["Containers"]:
                network.disconnect(left, force=True)
            network.remove()

    def _made(self) -> Any:
        self._make_network()
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        argv = ["/weed", *seaweedfs.options("/data", self.bucket, bind="0.0.0.0"), f"-s3.port={S3_PORT}"]
        place = {self.network: self.engine.api.create_endpoint_config(ipv4_address=self.address)}
        container = self.engine.containers.create(
            self.image, argv, environment=keys, labels=LABELS, network=self.network, networking_config=place, init=True
        )
        container.put_archive("/", _archive(Path(seaweedfs.weed())))
        return container

    def _make_network(self) -> None:
        from docker.errors import APIError
        from docker.types import IPAMConfig, IPAMPool

        for _ in range(20):  # an address of our own choice needs a subnet of our own choice; it may be taken
            prefix = self.prefix or f"10.{random.randrange(64, 255)}.{random.randrange(255)}"
            pool = IPAMConfig(pool_configs=[IPAMPool(subnet=f"{prefix}.0/24")])
            try:
                made = self.engine.networks.create(f"muster-tests-{random.randbytes(4).hex()}", ipam=pool, labels=LABELS)
            except APIError:
                continue
            self.network, self.address = made.name, f"{prefix}.250"
            return
        raise AssertionError("no free subnet for the store's network")

    def _is_ready(self) -> bool:
        self._container.reload()
        status = self._container.status
        assert status in ("created", "running"), f"SeaweedFS is {status}: {self._container.logs(tail=15).decode()}"
        return self.is_usable()


@dataclass(frozen=True)
class DockerStore(Store):
    """A fresh store that containers reach once they have joined ``network``; this machine reaches it too."""

    network: str = ""


@pytest.fixture(scope="session")
def docker_store_server(
    engine: DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerStoreServer]:
    """Yield a running server in a container; a test that stops it must start it again."""
    server = DockerStoreServer(tmp_path_factory.mktemp("weed"), engine=engine, image=base_image)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def docker_store(docker_store_server: DockerStoreServer) -> DockerStore:
    """Return an empty store of the test's own, for containers."""
    server = docker_store_server
    return DockerStore(uri=server.fresh_uri(), access=server.access, server=server, network=server.network)


def _answers() -> bool:
    import docker
    from docker.errors import DockerException

    try:
        return bool(docker.from_env(timeout=10).ping())
    except DockerException:
        return False


def _archive(program: Path) -> bytes:
    """Return an archive with one program and an empty folder for data."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(program.resolve(), arcname="weed")
        folder = tarfile.TarInfo("data")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o777
        archive.addfile(folder)
    return packed.getvalue()
