"""Engine: how a Docker engine is reached, and the SDK's client for it; the SDK is imported when it is first asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import RequestError
from muster.targets.docker.errors import connection_errors, unreachable

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_URL = "unix:///var/run/docker.sock"
TIMEOUT = 120  # seconds for one answer; some wait for the engine's disk
CONNECTIONS = 64
SSH_TRANSPORT = "docker.transport.sshconn"  # of the SDK, for ssh:// engines only: brings paramiko, half of the SDK's import


@dataclass(frozen=True, kw_only=True)
class Engine:
    """``url`` as in DOCKER_HOST; the certificate files are paths on this machine."""

    url: str
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""
    verify: bool = True

    @classmethod
    def of(cls, url: str, ca_cert: str = "", client_cert: str = "", client_key: str = "", *, verify: bool = True) -> Engine:
        """Return the engine of the target's fields; without a url, that of the standard DOCKER_* variables."""
        if url:
            return cls(url=url, ca_cert=ca_cert, client_cert=client_cert, client_key=client_key, verify=verify)
        found = os.environ.get("DOCKER_HOST") or DEFAULT_URL
        if not os.environ.get("DOCKER_TLS_VERIFY") or found.startswith("unix:"):
            return cls(url=found, ca_cert=ca_cert, client_cert=client_cert, client_key=client_key, verify=verify)
        folder = Path(os.environ.get("DOCKER_CERT_PATH") or "~/.docker").expanduser()
        ca_cert, client_cert, client_key = (str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        return cls(url=found, ca_cert=ca_cert, client_cert=client_cert, client_key=client_key)

    @property
    def is_here(self) -> bool:
        """Return whether the engine is reached by a socket of this machine."""
        return self.url.startswith("unix:")

    @cached_property
    def client(self) -> APIClient:
        """The SDK's client; safe to be used by several threads.

        :raises TargetError: the engine does not answer.
        """
        if self.url.startswith("ssh:") and sys.modules.get(SSH_TRANSPORT, sys) is None:
            del sys.modules[SSH_TRANSPORT]
        import docker

        try:
            return docker.APIClient(
                base_url=self.url, version="auto", timeout=TIMEOUT, tls=self._tls(), max_pool_size=CONNECTIONS
            )
        except connection_errors(OSError, ValueError) as error:
            raise unreachable(error, self.url) from error

    def discard(self, client: APIClient) -> None:
        """Discard a client over SSH, whose connection the SDK does not renew; the next caller creates a new one."""
        if self.url.startswith("ssh:") and self.__dict__.get("client") is client:
            del self.__dict__["client"]

    def _tls(self) -> Any:
        if not (self.ca_cert or self.client_cert):
            return False
        import docker.tls

        for path in filter(None, (self.ca_cert, self.client_cert, self.client_key)):
            if not Path(path).is_file():
                raise RequestError(f"the target's TLS file {path!r} is not on this machine; correct its path")
        pair = (self.client_cert, self.client_key) if self.client_cert else None
        return docker.tls.TLSConfig(client_cert=pair, ca_cert=self.ca_cert or None, verify=self.verify)


def skip_ssh_transport() -> None:
    """Keep the SDK from importing what only ssh:// engines need; for a process that has no other use of the SDK."""
    sys.modules.setdefault(SSH_TRANSPORT, None)  # type: ignore[arg-type]


def create_container(client: APIClient, config: Mapping[str, Any], name: str | None = None) -> str:
    """Create a container of the API's own configuration; gives its id."""
    made = client.create_container_from_config(dict(config), name)  # type: ignore[no-untyped-call]
    return str(made["Id"])
