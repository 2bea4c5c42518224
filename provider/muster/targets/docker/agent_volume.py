"""The agent on an engine: a read-only volume with agent and sync libraries, filled once for each image and named by content."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import MusterError, RequestError, TargetError
from muster.packaging import agent_pack
from muster.targets.contract import Log
from muster.targets.docker.engine import create_container
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
POLL_INTERVAL = 0.05


@dataclass(frozen=True, kw_only=True)
class AgentVolume:
    """``name`` of the volume; ``ulimits`` that the engine grants to containers."""

    name: str
    ulimits: tuple[Mapping[str, Any], ...] = ()

    @property
    def mount(self) -> dict[str, Any]:
        """Return the volume as an entry of a container's mounts."""
        return {"Type": "volume", "Source": self.name, "Target": str(HOME), "ReadOnly": True}


def volume_name(image_id: str, python: str) -> str:
    """Return the volume's name: by the agent's content, and by the image and its Python, for which it is compiled."""
    digest = agent_pack.agent_digest({**agent_pack.agent_files(), **agent_pack.library_versions()})
    place = hashlib.sha256(f"{image_id}\0{python}".encode()).hexdigest()[:12]
    return f"muster-agent-{digest}-{place}"


def find_volume(client: APIClient, name: str, engine_url: str) -> AgentVolume | None:
    """Return a volume that counts as filled; None if there is none, or while it is being filled.

    One whose filler died and was pruned is empty and counts all the same: a launch looks again, by :func:`ensure_in`.
    """
    import docker.errors

    with explained("looking for the agent's volume", engine_url):
        try:
            labels = client.inspect_volume(name)["Labels"] or {}
        except docker.errors.NotFound:
            return None
        # without it the engine made it, for a container whose volume had been removed under it
        if LABEL not in labels and _removed(client.remove_volume, name):
            return None
        try:
            client.inspect_container(_filler(name))  # looked for last: it is there before the volume, and goes after filling it
        except docker.errors.NotFound:
            return _volume(name, labels)
    return None


def ensure_volume(client: APIClient, image: Image, python: str, engine_url: str, log: Log) -> AgentVolume:
    """Find or fill the volume for an image; what a container of it could not run is found out here, before any launch.

    :raises RequestError: the image has no Python, or one that is too old.
    """
    filling = _Filling(name=volume_name(image.id, python), image=image.name, python=python, engine_url=engine_url)
    while (found := find_volume(client, filling.name, engine_url)) is None:
        _fill_or_wait(client, filling, log, until=lambda: find_volume(client, filling.name, engine_url))
    return found


def ensure_in(client: APIClient, container: str, image: Image, python: str, engine_url: str) -> None:
    """Fill the agent's volume of a container that has not been started, unless it is filled; that takes one request."""
    filling = _Filling(name=volume_name(image.id, python), image=image.name, python=python, engine_url=engine_url)
    if not _is_filled(client, container, engine_url):
        _fill_or_wait(client, filling, log=lambda line: None, until=lambda: _is_filled(client, container, engine_url))


@dataclass(frozen=True, kw_only=True)
class _Filling:
    name: str
    image: str
    python: str
    engine_url: str
    unlimited: bool = True


def _is_filled(client: APIClient, container: str, engine_url: str) -> bool:
    """Return whether a container would find the agent in its volume; the agent's entry is what is copied there last."""
    url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
    with explained("looking for the agent", engine_url):
        if client.head(url, params={"path": ENTRY}, timeout=client.timeout).status_code != 404:
            return True
        client.inspect_container(container)  # if it is the container that is missing, that is the error
    return False


def _fill_or_wait(client: APIClient, filling: _Filling, log: Log, until: Callable[[], object]) -> None:
    """Fill the volume, as it is if it is there, or wait for whoever fills it; a filler that takes too long is removed."""
    deadline = time.monotonic() + FILL_TIME
    while not _fill(client, filling, log) and not until():
        if time.monotonic() > deadline:
            with explained("removing what filled the agent's volume and did not end", filling.engine_url):
                _undo(client, _filler(filling.name), filling.name)
            deadline = time.monotonic() + FILL_TIME
        time.sleep(POLL_INTERVAL)


def _fill(client: APIClient, filling: _Filling, log: Log) -> bool:
    """Fill the volume by a container of the image; False if somebody else does, or has removed the container under us."""
    import docker.errors

    with explained(f"preparing image {filling.image}", filling.engine_url):
        try:
            container = create_container(client, _config(filling), _filler(filling.name))
        except docker.errors.APIError as error:
            if error.status_code == 409:  # somebody else is filling it
                return False
            raise
        if filling.unlimited:
            log(f"copying the agent to the engine for image {filling.image}")
        try:
            _run(client, container, filling)
        except (docker.errors.APIError, MusterError) as error:
            _undo(client, container, filling.name)
            if filling.unlimited and "rlimit type 8" in str(error):
                return _fill(client, dataclasses.replace(filling, unlimited=False), log)
            if "no such container" in str(error).lower():
                return False
            raise
    return True


def _run(client: APIClient, container: str, filling: _Filling) -> None:
    """Copy the agent through a container, and have it compiled there; what is there already is left as it is."""
    if not _is_filled(client, container, filling.engine_url):
        client.put_archive(container, "/", _content())
        client.start(container)
        status = client.wait(container)["StatusCode"]
        if status:
            words = client.logs(container, tail=20).decode(errors="replace").strip()
            raise _refusal(filling, status, words)
    _removed(client.remove_container, container)  # from here on the volume counts as filled


def _refusal(filling: _Filling, status: int, words: str) -> RequestError | TargetError:
    if status == 127 or "exec " in words:
        return RequestError(
            f"image {filling.image} has no program {filling.python!r}; Muster needs Python 3.10 or newer in it, on its PATH"
        )
    if "too old" in words:
        return RequestError(f"image {filling.image}: {words.splitlines()[-1]}; choose an image with a newer Python")
    error = meaning_of(
        words or f"exit {status}", f"starting Python in image {filling.image} (exit {status})", filling.engine_url
    )
    return error if isinstance(error, (RequestError, TargetError)) else TargetError(str(error))


def _undo(client: APIClient, container: str, volume: str) -> None:
    """Remove a filler with the volume, unless somebody uses that by now."""
    _removed(client.remove_container, container, force=True, v=True)
    _removed(client.remove_volume, volume)


def _removed(remove: Callable[..., object], *what: str, **how: bool) -> bool:
    """Remove something, which may be gone already; False if it is in use, or being removed."""
    import docker.errors

    try:
        remove(*what, **how)
    except docker.errors.APIError as error:
        if error.status_code not in (404, 409):
            raise
        return error.status_code == 404
    return True


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
    from muster.targets.docker.node_files import tree

    files = {**agent_pack.agent_files(), **agent_pack.library_files()}
    entry = str(Path(ENTRY).relative_to(HOME))
    return tree({**{path: content for path, content in files.items() if path != entry}, entry: files[entry]}, HOME)


def _volume(name: str, labels: Mapping[str, str]) -> AgentVolume:
    return AgentVolume(name=name, ulimits=(UNLIMITED,) if labels.get(MEMLOCK) == "unlimited" else ())


def _filler(volume: str) -> str:
    return f"{volume}-filling"
