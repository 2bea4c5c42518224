"""A real registry of images on loopback, with a login: Debian's docker-registry, unpacked by scripts/system.sh."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import children
import seaweedfs
from store_server import wait_until

UNPACKED = Path(__file__).resolve().parents[2] / ".muster" / "tools" / "registry" / "usr" / "bin" / "docker-registry"
USER = "muster"
PASSWORD = "pass of the registry"
# of that password, by bcrypt, which is all that a registry takes
HASH = "$2y$04$TyceAznU2UQKCmlxdu7v1O7sycgi8hw5faCbVZCS4xvinD4syYPdC"
CONFIGURATION = """
version: 0.1
storage:
  filesystem: {{rootdirectory: {folder}/data}}
http: {{addr: 127.0.0.1:{port}, secret: of-the-tests}}
auth:
  htpasswd: {{realm: tests, path: {folder}/htpasswd}}
"""


@dataclass(frozen=True)
class Registry:
    """Where it is, and who may enter."""

    host: str

    @property
    def login(self) -> dict[str, str]:
        return {"username": USER, "password": PASSWORD}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Yield a running registry."""
    found = shutil.which("docker-registry") or (str(UNPACKED) if UNPACKED.exists() else "")
    if not found:
        pytest.skip("there is no docker-registry; scripts/system.sh fetches it")
    folder = tmp_path_factory.mktemp("registry")
    (port,) = seaweedfs.free_ports(1)
    (folder / "htpasswd").write_text(f"{USER}:{HASH}\n")
    (folder / "config.yml").write_text(CONFIGURATION.format(folder=folder, port=port))
    with children.running([found, "serve", str(folder / "config.yml")], folder / "log", os.environ) as child:
        host = f"127.0.0.1:{port}"
        wait_until(lambda: child.poll() is not None or _asks_for_a_login(host), every=0.1, what="the registry answers")
        assert child.poll() is None, children.tail(folder / "log")
        yield Registry(host=host)


def _asks_for_a_login(host: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return False
