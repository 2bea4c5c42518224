"""LoginSshd: an sshd on loopback that makes this machine a cluster's login node for whoever has the key."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import children
from contract.labs.proxy import Proxy
from seaweedfs import free_ports
from store_server import wait_until

CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/id.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
{environment}"""


@dataclass(frozen=True)
class LoginSshd:
    """A running sshd, reached by a wire that can be cut; its keys are in ``folder``."""

    folder: Path
    wire: Proxy

    @property
    def fields(self) -> dict[str, object]:
        """Return the fields of a login by the wire."""
        known = (self.folder / "host_key.pub").read_text(encoding="ascii")
        return {
            "host": "127.0.0.1",
            "port": self.wire.port,
            "user": "root",
            "key_file": str(self.folder / "id"),
            "host_key": " ".join(known.split()[:2]),
        }


@contextmanager
def running(folder: Path, environment: Mapping[str, str]) -> Iterator[LoginSshd]:
    """Start an sshd whose users have these variables."""
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("id", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (port,) = free_ports(1)
    words = " ".join(f"{name}={value}" for name, value in environment.items())
    given = f"SetEnv {words}\n" if words else ""
    (folder / "sshd_config").write_text(CONFIG.format(folder=folder, port=port, environment=given), encoding="ascii")
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or "sshd"
    with children.running([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], folder / "sshd.log", os.environ):
        wait_until(lambda: _greets(port), what=f"sshd is up; its log is {folder / 'sshd.log'}")
        with Proxy.to("127.0.0.1", port) as wire:
            yield LoginSshd(folder, wire)


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
