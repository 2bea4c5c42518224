"""Account: who runs in a container; any user id is given a name, a home that it can write, and an entry in /etc/passwd."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from muster.core.errors import RequestError
from muster.targets.docker.engine import create_container

if TYPE_CHECKING:
    from docker import APIClient

HOME = "/muster/home"
PASSWD, GROUP = Path("/etc/passwd"), Path("/etc/group")


@dataclass(frozen=True, kw_only=True)
class Account:
    """``files`` must be put into the container for it; ``home_is_ours`` if the home is to be made as well. Root by default."""

    uid: int = 0
    gid: int = 0
    name: str = "root"
    home: str = "/root"
    home_is_ours: bool = False
    files: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the user's identity."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def account_of(client: APIClient, image: str, user: str, labels: Mapping[str, str]) -> Account:
    """Find out who ``user`` (``name|uid[:group|gid]``, "" for root) is in an image; looks into a container that never runs.

    :raises RequestError: the image has no user or group of that name.
    """
    name, _, group = user.partition(":")
    if name in ("", "0", "root") and group in ("", "0", "root"):
        return Account()
    with _opened(client, image, labels) as container:
        entries = [entry for entry in _entries(client, container, PASSWD) if len(entry) == 7]
        entry = next((e for e in entries if name in (e[0], e[2])), None)
        if entry is None and not name.isdigit():
            raise _nobody(image, "user", name)
        gid = _gid(client, container, image, group) if group else int(entry[3]) if entry else 0
        if entry is None:
            return _unknown(int(name), gid, entries)
        if _owns(client, container, entry[5], int(entry[2])):
            return Account(uid=int(entry[2]), gid=gid, name=entry[0], home=entry[5])
        return Account(uid=int(entry[2]), gid=gid, name=entry[0], home=HOME, home_is_ours=True)


def _unknown(uid: int, gid: int, entries: list[list[str]]) -> Account:
    """Return a user for an id that the image does not know."""
    name = f"user{uid}"
    lines = [":".join(entry) for entry in entries]
    passwd = "\n".join([*lines, f"{name}:x:{uid}:{gid}:{name}:{HOME}:/bin/sh", ""])
    return Account(uid=uid, gid=gid, name=name, home=HOME, home_is_ours=True, files={PASSWD: passwd.encode()})


def _gid(client: APIClient, container: str, image: str, group: str) -> int:
    if group.isdigit():
        return int(group)
    found = next((e for e in _entries(client, container, GROUP) if e[0] == group), None)
    if found is None:
        raise _nobody(image, "group", group)
    return int(found[2])


def _nobody(image: str, kind: str, name: str) -> RequestError:
    return RequestError(f"image {image} has no {kind} {name!r}; give --user in docker_arguments as numbers, such as 1000:1000")


@contextmanager
def _opened(client: APIClient, image: str, labels: Mapping[str, str]) -> Iterator[str]:
    """Return a container of an image to look into; it is never started."""
    config = {"Image": image, "Entrypoint": ["true"], "Labels": dict(labels)}
    container = create_container(client, config)
    try:
        yield container
    finally:
        client.remove_container(container, v=True)


def _entries(client: APIClient, container: str, path: Path) -> list[list[str]]:
    """Return the entries of /etc/passwd or /etc/group; none where the image has no such file."""
    import docker.errors

    try:
        stream, _ = client.get_archive(container, str(path))
    except docker.errors.NotFound:
        return []
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        text = file.read().decode(errors="replace") if file else ""
    return [entry for line in text.splitlines() if len(entry := line.split(":")) >= 3]


def _owns(client: APIClient, container: str, home: str, uid: int) -> bool:
    """Return whether a folder is there and its user's own: only the first header of its archive is looked at."""
    import docker.errors

    try:
        stream, _ = client.get_archive(container, home)
    except docker.errors.NotFound:
        return False
    head = b""
    for piece in stream:
        head += piece
        if len(head) >= tarfile.BLOCKSIZE:
            break
    info = tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    return info.isdir() and info.uid == uid and bool(info.mode & 0o200)
