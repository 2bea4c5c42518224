"""The agent on an engine: a read-only volume with agent and sync libraries, filled once for each image and named by content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import RequestError, TargetError
from muster.packaging import agent_pack
from muster.targets.contract import Log
from muster.targets.docker.engine import create
from muster.targets.docker.errors import explained, meaning_of
from muster.targets.docker.image import Image

if TYPE_CHECKING:
    from docker import APIClient

HOME = Path("/muster/agent")
ENTRY = str(HOME / "muster" / "node" / "start.py")
LABEL = "muster.agent"
MEMLOCK = "muster.memlock"  # on the volume: whether the engine lets containers lock as much memory as they like
UNLIMITED = {"Name": "memlock", "Soft": -1, "Hard": -1}
FILL_TIME = 120.0  # seconds for filling; a filler that takes longer has died


@dataclass(frozen=True, kw_only=True)
class AgentVolume:
    """``name`` of the volume; ``ulimits`` that the engine grants to containers."""

    name: str
    ulimits: tuple[Mapping[str, Any], ...] = ()

    @property
    def mount(self) -> dict[str, Any]:
        """Give the volume as an entry of a container's mounts."""
        return {"Type": "volume", "Source": self.name, "Target": str(HOME), "ReadOnly": True}


def volume_name(image_id: str, python: str) -> str:
    """Give the volume's name: by the agent's content, and by the image and its Python, for which it is compiled."""
    digest = agent_pack.agent_digest({**agent_pack.agent_files(), **agent_pack.library_versions()})
    place = hashlib.sha256(f"{image_id}\0{python}".encode()).hexdigest()[:12]
    return f"muster-agent-{digest}-{place}"


def find(client: APIClient, name: str, where: str) -> AgentVolume | None:
    """Give a volume that has been filled; None if there is none, or while it is being filled."""
    import docker.errors

    with explained("looking for the agent's volume", where):
        try:
            labels = client.inspect_volume(name)["Labels"] or {}
        except docker.errors.NotFound:
            return None
        if LABEL not in labels:  # made empty by the engine, for a container whose volume had been removed under it
            client.remove_volume(name)
            return None
        try:
            client.inspect_container(_filler(name))  # looked for last: it is there before the volume, and goes after filling it
        except docker.errors.NotFound:
            return _volume(name, labels)
    return None


def ensure(client: APIClient, image: Image, python: str, where: str, log: Log) -> AgentVolume:
    """Find or fill the volume for an image; what a container of it could not run is found out here, before any launch.

    :raises RequestError: the image has no Python, or one that is too old.
    """
    name = volume_name(image.id, python)
    give_up = time.monotonic() + FILL_TIME
    while (found := find(client, name, where)) is None:
        if time.monotonic() > give_up:
            client.remove_container(_filler(name), force=True)
        for unlimited in (True, False):
            if _fill(client, _Filling(name=name, image=image.name, python=python, where=where, unlimited=unlimited), log):
                break
        time.sleep(0.05)
    return found


@dataclass(frozen=True, kw_only=True)
class _Filling:
    name: str
    image: str
    python: str
    where: str
    unlimited: bool


def _fill(client: APIClient, filling: _Filling, log: Log) -> bool:
    """Fill the volume by a container of the image; False if that must be tried without locked memory."""
    import docker.errors

    with explained(f"preparing image {filling.image}", filling.where):
        try:
            container = create(client, _config(filling), _filler(filling.name))
        except docker.errors.APIError as error:
            if error.status_code == 409:  # somebody else is filling it
                return True
            raise
        if filling.unlimited:
            log(f"copying the agent to the engine for image {filling.image}")
        try:
            client.put_archive(container, "/", _content())
            client.start(container)
            status = client.wait(container)["StatusCode"]
            words = client.logs(container, tail=20).decode(errors="replace").strip()
        except docker.errors.APIError as error:
            _undo(client, container, filling.name)
            if filling.unlimited and "rlimit type 8" in str(error.explanation):
                return False
            raise
    if status:
        _undo(client, container, filling.name)
        raise _refusal(filling, status, words)
    client.remove_container(container)  # from here on the volume counts as filled
    return True


def _refusal(filling: _Filling, status: int, words: str) -> RequestError | TargetError:
    if status == 127 or "exec " in words:
        return RequestError(
            f"image {filling.image} has no program {filling.python!r}; Muster needs Python 3.10 or newer in it, on its PATH"
        )
    if "too old" in words:
        return RequestError(f"image {filling.image}: {words.splitlines()[-1]}; choose an image with a newer Python")
    error = meaning_of(words or f"exit {status}", f"starting Python in image {filling.image} (exit {status})", filling.where)
    return error if isinstance(error, (RequestError, TargetError)) else TargetError(str(error))


def _undo(client: APIClient, container: str, volume: str) -> None:
    client.remove_container(container, force=True, v=True)
    client.remove_volume(volume)


def _config(filling: _Filling) -> dict[str, Any]:
    labels = {LABEL: filling.name, MEMLOCK: "unlimited" if filling.unlimited else "as it is"}
    mount = {"Type": "volume", "Source": filling.name, "Target": str(HOME), "VolumeOptions": {"Labels": labels, "NoCopy": True}}
    host = {"Init": True, "NetworkMode": "none", "Mounts": [mount], "Ulimits": list(_volume(filling.name, labels).ulimits)}
    return {
        "Image": filling.image,
        "Entrypoint": [filling.python, "-I", "-S", ENTRY, "compile", str(HOME)],
        "User": "0:0",
        "WorkingDir": "/",
        "Labels": {LABEL: filling.name},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def _content() -> bytes:
    from muster.targets.docker.files import tree

    return tree({**agent_pack.agent_files(), **agent_pack.library_files()}, HOME)


def _volume(name: str, labels: Mapping[str, str]) -> AgentVolume:
    return AgentVolume(name=name, ulimits=(UNLIMITED,) if labels.get(MEMLOCK) == "unlimited" else ())


def _filler(volume: str) -> str:
    return f"{volume}-filling"
