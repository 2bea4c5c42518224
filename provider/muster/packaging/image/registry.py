"""Finds, pulls and pushes images of an engine, each with the login of its own registry only."""

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
_TRANSIENT = re.compile(
    r"toomanyrequests|too many requests|time-?out|timed out|deadline exceeded|HTTP (status: )?5\d\d\b"
    r"|unexpected status.*: 5\d\d\b|\b5\d\d (internal server error|bad gateway|service unavailable)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class EngineImages:
    """Images of one engine; ``login`` is ``{"username", "password"}`` for the registry of ``repository``, or its ``server``."""

    client: APIClient
    repository: str = ""
    login: Mapping[str, str] | None = None

    def identity(self, name: str) -> str | None:
        """Return the id (``sha256:…``) of an image of the engine; None if there is none of that name. One request."""
        found = self._inspect(name)
        return str(found["Id"]) if found else None

    def user(self, name: str) -> str:
        """Return the user that an image's containers run as."""
        found = self._inspect(name) or {}
        return str((found.get("Config") or {}).get("User") or "root")

    def _inspect(self, name: str) -> dict[str, Any] | None:
        import docker.errors

        try:
            return dict(self.client.inspect_image(name))  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return None

    def pull(self, name: str, log: Log) -> str | None:
        """Pull an image; return None, or why it is not available."""
        import docker.errors

        repository, tag = split_name(name)
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

        repository, tag = split_name(name)
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
        """Return the login for an image's registry; with None the SDK reads the user's own docker configuration."""
        if not self.login or not self.login.get("username"):
            return None
        server = self.login.get("server") or registry_of(self.repository)
        if registry_of(name) != registry_of(f"{server}/"):
            return None
        return {"username": self.login["username"], "password": self.login.get("password", "")}


def is_transient(why: str) -> bool:
    """Return whether the error of a pull is the registry's trouble, so that a later pull may succeed."""
    return bool(_TRANSIENT.search(why))


def split_name(name: str) -> tuple[str, str]:
    """Return repository and tag, or digest; a name without either means its ``latest``."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", tag or "latest"


def registry_of(name: str) -> str:
    """Return the host of an image's registry."""
    first, slash, _ = name.removeprefix("https://").removeprefix("http://").partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host and first not in ("index.docker.io", "registry-1.docker.io") else DEFAULT_REGISTRY


def _follow(stream: Iterable[dict[str, Any]], log: Log) -> str:
    """Log progress layer by layer, without the moving bars; return the final error, or ""."""
    for line in stream:
        if "error" in line:
            return str(line["error"])
        if "progressDetail" not in line or not line["progressDetail"]:
            status = " ".join(filter(None, (line.get("id"), line.get("status"))))
            if status and line.get("status") not in ("Waiting", "Preparing", "Verifying Checksum"):
                log(status)
    return ""
