"""Images of an engine: found, pulled and pushed, with the login that belongs to the registry and to no other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muster.core.errors import TargetError
from muster.packaging.environment.uv import Log

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_REGISTRY = "docker.io"
_PASSING = re.compile(
    r"toomanyrequests|too many requests|time-?out|timed out|deadline exceeded|HTTP (status: )?5\d\d\b"
    r"|unexpected status.*: 5\d\d\b|\b5\d\d (internal server error|bad gateway|service unavailable)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Images:
    """``login`` is ``{"username", "password"}`` for the registry that ``repository`` is on, or that its ``server`` names."""

    client: APIClient
    repository: str = ""
    login: Mapping[str, str] | None = None

    def identity(self, name: str) -> str | None:
        """Give the id (``sha256:…``) of an image of the engine; None if it has none of that name. One question."""
        found = self._inspect(name)
        return str(found["Id"]) if found else None

    def user(self, name: str) -> str:
        """Give the user that an image's containers run as."""
        found = self._inspect(name) or {}
        return str((found.get("Config") or {}).get("User") or "root")

    def _inspect(self, name: str) -> dict[str, Any] | None:
        import docker.errors

        try:
            return dict(self.client.inspect_image(name))  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return None

    def pull(self, name: str, log: Log) -> str | None:
        """Pull an image; gives None, or why it can't be had."""
        import docker.errors

        repository, tag = split(name)
        log(f"pulling image {name}")
        try:
            stream = self.client.pull(repository, tag=tag, stream=True, decode=True, auth_config=self._login_for(name))
            error = _follow(stream, log)
        except docker.errors.APIError as refusal:
            error = str(refusal.explanation or refusal)
        return error if error or self.identity(name) else "the registry has it for another platform only"

    def push(self, name: str, log: Log) -> None:
        """Push an image to its registry.

        :raises TargetError: the registry does not take it.
        """
        import docker.errors

        repository, tag = split(name)
        log(f"pushing image {name}")
        try:
            error = _follow(
                self.client.push(repository, tag=tag, stream=True, decode=True, auth_config=self._login_for(name)), log
            )
        except docker.errors.APIError as refusal:
            error = str(refusal.explanation or refusal)
        if error:
            raise TargetError(
                f"image {name} was built, but can't be pushed: {' '.join(error.split())}; correct the target's "
                "image_repository or registry_login"
            )

    def _login_for(self, name: str) -> dict[str, str] | None:
        """Give the login for an image's registry; None lets the SDK look into the user's own docker configuration."""
        if not self.login or not self.login.get("username"):
            return None
        server = self.login.get("server") or registry_of(self.repository)
        if registry_of(name) != registry_of(f"{server}/"):
            return None
        return {"username": self.login["username"], "password": self.login.get("password", "")}


def is_passing(why: str) -> bool:
    """Whether a registry has trouble of its own, by what is said of a pull: what it has may be had later."""
    return bool(_PASSING.search(why))


def split(name: str) -> tuple[str, str]:
    """Give repository and tag, or digest; a name without either means its ``latest``."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", tag or "latest"


def registry_of(name: str) -> str:
    """Give the host of an image's registry."""
    first, slash, _ = name.removeprefix("https://").removeprefix("http://").partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host and first not in ("index.docker.io", "registry-1.docker.io") else DEFAULT_REGISTRY


def _follow(stream: Iterable[dict[str, Any]], log: Log) -> str:
    """Tell what is done, layer by layer without the moving bars; gives the error that it ended with, or ""."""
    for line in stream:
        if "error" in line:
            return str(line["error"])
        if "progressDetail" not in line or not line["progressDetail"]:
            status = " ".join(filter(None, (line.get("id"), line.get("status"))))
            if status and line.get("status") not in ("Waiting", "Preparing", "Verifying Checksum"):
                log(status)
    return ""
