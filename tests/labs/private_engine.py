"""PrivateEngine: a second dockerd that a test may stop, kill and fill up; with folders, socket and addresses of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store_server import wait_until

SIZE = "900m"  # of its disk, a tmpfs
NETWORKS, POOL = "10.63.0.0/16", "10.63.0.0/17"  # all that is reached through it, and what it takes its networks from
STORES = "10.63.200"  # begins the addresses of a store in it
SPACE = "muster-tests"  # a network namespace of its own: in ours it would take docker0 from another engine
OUR_END, ITS_END = ("muster-tests0", "10.62.0.1"), ("muster-tests1", "10.62.0.2")
START_LIMIT = 120.0
INSIDE = ("nsenter", f"--net=/run/netns/{SPACE}", "--")  # only its network is another: its mounts must outlive it


def can_be_had() -> bool:
    """Return whether this machine and user can start one."""
    return os.geteuid() == 0 and _dockerd() is not None and all(map(shutil.which, ("ip", "nsenter", "sysctl")))


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@dataclass
class PrivateEngine:
    """``folder`` is mounted as its whole disk; networks work without touching the rules of another engine."""

    folder: Path
    live_restore: bool = False
    _daemon: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def client(self) -> Any:
        import docker

        return docker.DockerClient(base_url=self.url, timeout=120)

    def set_up(self) -> None:
        """Make its disk, let its networks' packets pass, and start it."""
        self.folder.mkdir()
        self._lead_to_networks()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "muster-tests", self.folder], check=True)
        self.start()

    def _lead_to_networks(self) -> None:
        """Make its network namespace, and a way from ours to the addresses of its containers."""
        self._remove_space()
        (ours, our_address), (its, its_address) = OUR_END, ITS_END
        for words in (
            ["netns", "add", SPACE],
            ["link", "add", ours, "type", "veth", "peer", "name", its, "netns", SPACE],
            ["address", "add", f"{our_address}/24", "dev", ours],
            ["link", "set", ours, "up"],
            ["-n", SPACE, "address", "add", f"{its_address}/24", "dev", its],
            ["-n", SPACE, "link", "set", its, "up"],
            ["-n", SPACE, "link", "set", "lo", "up"],
            ["-n", SPACE, "route", "add", "default", "via", our_address],
        ):
            subprocess.run(["ip", *words], check=True)
        subprocess.run(["ip", "route", "replace", NETWORKS, "via", its_address], check=True)
        subprocess.run([*INSIDE, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)

    def start(self) -> None:
        """Start it and wait until it answers; after a kill, its first start can find the remains still in use."""
        for _ in range(3):
            self._start()
            wait_until(lambda: self._ended() or self._answers(), START_LIMIT, 0.2, "dockerd answers")
            if not self._ended():
                return
        raise AssertionError((self.folder / "dockerd.log").read_text()[-2000:])

    def _start(self) -> None:
        daemon = _dockerd()
        assert daemon is not None
        folders = [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root")]
        own = [f"--pidfile={self.folder}/pid", f"--host={self.url}", f"--default-address-pool=base={POOL},size=24"]
        modest = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--shutdown-timeout=5"]
        live = ["--live-restore"] if self.live_restore else []
        with (self.folder / "dockerd.log").open("ab") as log:
            argv = [*INSIDE, daemon, *folders, *own, *modest, *live]
            self._daemon = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def _ended(self) -> bool:
        assert self._daemon is not None
        return self._daemon.poll() is not None

    def _answers(self) -> bool:
        done = subprocess.run(["docker", "-H", self.url, "version"], capture_output=True, check=False)
        return done.returncode == 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon; what becomes of its containers is its own affair."""
        assert self._daemon is not None
        self._daemon.send_signal(number)
        self._daemon.wait(120)

    def load(self, name: str) -> None:
        """Copy an image from the engine of the tests."""
        with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "-H", self.url, "load"], stdin=saved.stdout, check=True, capture_output=True)
        assert saved.returncode == 0

    @staticmethod
    def _remove_space() -> None:
        """Remove what an earlier one left; its end of the pair goes with ours."""
        for words in (["link", "delete", OUR_END[0]], ["netns", "delete", SPACE]):
            subprocess.run(["ip", *words], check=False, capture_output=True)

    def take_down(self) -> None:
        """End it with everything it holds."""
        try:
            if self._daemon is not None and self._daemon.poll() is None:
                client = self.client()
                for container in client.containers.list(all=True, ignore_removed=True):
                    container.remove(force=True, v=True)
                for network in client.networks.list(filters={"type": "custom"}):
                    network.remove()
                client.close()
                self.stop()
        finally:
            self._remove_space()
            subprocess.run(["umount", "--recursive", "--lazy", self.folder], check=False)
