"""EngineLab: a Docker engine as the contract suite sees it."""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from contract.labs import faults
from contract.labs.proxy import Proxy
from contract.suite.target_lab import TargetLab
from docker_lab import DockerLab
from muster.core.handle import JobHandle
from muster.core.job import Mount
from muster.core.plan import ContainerOptions, EnvironmentRef, JobPlan, Needs
from muster.targets.docker.agent_volume import volume_name
from store_server import wait_until

SOCKET = "/var/run/docker.sock"
NODE_FOLDER = "/muster/node"


@dataclass
class EngineLab(TargetLab[DockerLab]):
    """A target on the engine of the tests, reached over a wire that can be cut."""

    proxy: Proxy = field(kw_only=True)
    _disks: list[Path] = field(default_factory=list)
    _images: list[str] = field(default_factory=list)

    def launches(self, handle: JobHandle) -> int:
        return sum(container.labels["muster.node"] == "0" for container in self.jobs.containers(handle.job_id))

    def left(self, handle: JobHandle) -> list[str]:
        return self.jobs.left(handle.job_id)

    def short_of_memory(self, plan: JobPlan, limit: int) -> JobPlan:
        return dataclasses.replace(plan, needs=Needs(memory=limit))

    def small_disk(self, plan: JobPlan, size: int) -> JobPlan:
        """Mount a small disk where a node keeps everything; containers can't share it, so the job has one node."""
        assert len(plan.nodes) == 1
        disk = self.folder / "disk"
        faults.small_disk(disk, size)
        self._disks.append(disk)
        mount = Mount(source=str(disk), target=NODE_FOLDER, read_only=False)
        return dataclasses.replace(plan, container=ContainerOptions(mounts=(mount,)))

    def skew_clock(self, plan: JobPlan, node: int, seconds: int) -> JobPlan:
        """Run the job on an image whose Python has another clock on the node of that name."""
        return dataclasses.replace(plan, environment=EnvironmentRef(image=self._skewed_image(node, seconds)))

    def lose_node(self, handle: JobHandle, node: int) -> None:
        """Kill the container."""
        self.jobs.container(handle, node).kill("SIGKILL")

    def let_go(self, handle: JobHandle) -> None:
        for container in self.jobs.containers(handle.job_id):
            assert container.exec_run(["touch", f"{NODE_FOLDER}/work/go"])[0] == 0

    @contextmanager
    def connection_lost(self) -> Iterator[None]:
        self.proxy.cut()
        wait_until(lambda: self.proxy.refused, what="a new connection to the engine was tried")
        yield
        self.proxy.mend()

    def close(self) -> None:
        self.proxy.mend()
        try:
            super().close()
        finally:
            for disk in self._disks:
                faults.remove_disk(disk)
            for image in self._images:
                self._remove_image(image)

    def _skewed_image(self, node: int, seconds: int) -> str:
        library = faults.libfaketime()
        when = f'case "$(hostname)" in *-n{node}) true ;; *) false ;; esac'
        python = faults.skewed_python(self.folder / "python3", "/usr/bin/python3-real", seconds, f"/{library.name}", when=when)
        dockerfile = (
            f"FROM {self.jobs.base_image}\n"
            f"COPY {library.name} /\n"
            'RUN ln -s "$(readlink -f "$(command -v python3)")" /usr/bin/python3-real && rm "$(command -v python3)"\n'
            "COPY python3 /usr/local/bin/\n"
        )
        context = _context(
            {"Dockerfile": dockerfile.encode(), "python3": python.read_bytes(), library.name: library.read_bytes()}
        )
        image, _ = self.jobs.engine.images.build(fileobj=context, custom_context=True, rm=True, forcerm=True)
        self._images.append(image.id)
        return str(image.id)

    def _remove_image(self, image: str) -> None:
        name = volume_name(image, "python3")
        for volume in self.jobs.engine.volumes.list(filters={"name": name}):
            volume.remove()
        self.jobs.engine.images.remove(image, force=True)


def _context(files: dict[str, bytes]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    return packed


@contextmanager
def open_lab(request: pytest.FixtureRequest, folder: Path) -> Iterator[EngineLab]:
    """Yield the lab for one test."""
    engine, store = request.getfixturevalue("engine"), request.getfixturevalue("docker_store")
    socket = urlsplit(os.environ.get("DOCKER_HOST", f"unix://{SOCKET}")).path
    with Proxy.to(socket) as proxy:
        docker = DockerLab(engine=engine, store=store, base_image=request.getfixturevalue("base_image"), url=proxy.url)
        lab = EngineLab(jobs=docker, folder=folder, proxy=proxy)
        try:
            yield lab
        finally:
            lab.close()
