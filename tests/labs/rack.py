"""A rack of SSH hosts on one machine: each with network, host name, processes, home, /tmp and sshd of its own; and their store.

Namespaces make them: a host that is rebooted loses every process at once, and its kernel tells another boot id. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import children
import seaweedfs
from store_server import Store, StoreServer, wait_until

HOSTS = 3
SSHD_CONFIG = """Port 22
ListenAddress {address}
HostKey /etc/ssh/host_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
"""
# the words of a shell that has become a host's first process; sshd reaps what is orphaned there
BECOME_HOST = """set -e
hostname "$1"
mount --bind "$2/home" /root
mount --bind "$2/sbin" /usr/local/sbin
mount --bind "$2/etc" /etc/ssh
mount --bind "$2/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$2/tmp" /tmp
cd /root
# whoever made the host holds the other end of our input: once that one is gone, however it went, so is the host
exec 3<&0 </dev/null
(cat <&3 >/dev/null; kill -TERM 1) &
exec 3<&- env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$3" -D -e
"""
GPUS = """#!/bin/sh
# {count} devices that are none; asked for in the order of the query
i=0
while [ $i -lt {count} ]; do echo "$i, Muster Test GPU, 1024 MiB, 555.55"; i=$((i + 1)); done
"""


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)} failed: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Host:
    """One host of the rack: its name, address, and the folder of this machine that holds its files."""

    name: str
    address: str
    folder: Path
    namespace: str
    link: str
    _process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """What is /root there."""
        return self.folder / "home"

    @property
    def root(self) -> Path:
        """Where Muster keeps things there, by default."""
        return self.home / ".muster"

    @property
    def log(self) -> Path:
        """What its sshd says."""
        return self.folder / "sshd.log"

    @property
    def known(self) -> str:
        """Its line of a known_hosts file."""
        return f"{self.address} {' '.join((self.folder / 'etc' / 'host_key.pub').read_text().split()[:2])}\n"

    def lay_out(self, public_key: str) -> None:
        """Make its folders, its key and its fake GPUs."""
        for name in ("home", "sbin", "etc", "tmp"):
            (self.folder / name).mkdir(parents=True)
        (self.home / ".ssh").mkdir(mode=0o700)
        (self.home / ".ssh" / "authorized_keys").write_text(public_key)
        (self.folder / "etc" / "sshd_config").write_text(SSHD_CONFIG.format(address=self.address))
        self.change_key()
        self.give_gpus(4)

    def change_key(self) -> None:
        """Make a new host key; it is shown from the next boot on."""
        key = self.folder / "etc" / "host_key"
        for old in (key, key.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))

    def give_gpus(self, count: int) -> None:
        """Make its nvidia-smi report so many devices."""
        self.program("nvidia-smi", GPUS.format(count=count))

    def program(self, name: str, text: str) -> None:
        """Put a program first on its PATH."""
        (self.folder / "sbin" / name).write_text(text)
        (self.folder / "sbin" / name).chmod(0o755)

    def show(self, folder: Path, *, but: str = "") -> None:
        """Show it a folder of this machine under the same path, though its own home and /tmp hide ours.

        ``but``: the name of folders in it that nobody needs there.
        """
        for ours, its in ((Path("/root"), self.home), (Path("/tmp"), self.folder / "tmp")):
            there = its / folder.relative_to(ours) if folder.is_relative_to(ours) else folder
            if not there.exists():
                shutil.copytree(folder, there, symlinks=True, ignore=shutil.ignore_patterns(but), copy_function=os.link)

    # -- up and down

    def boot(self) -> None:
        """Start it, unless it is up."""
        if self._process is not None:
            return
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin") or "sshd"
        become = ["sh", "-c", BECOME_HOST, "sh", self.name, str(self.folder), sshd]
        unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *become]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *unshare],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._answers, every=0.02, what=f"{self.name} is up; its log is {self.log}")

    def crash(self) -> None:
        """End it with every process on it, at once."""
        if self._process is not None:
            inmates = self.processes()
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inmates), what=f"{self.name} is down")

    def reboot(self) -> None:
        """End it with every process on it, and start it anew."""
        self.crash()
        self.boot()

    def processes(self) -> list[int]:
        """Return every process on it, as this machine numbers them; first its sshd that listens."""
        if self._process is None:
            return []
        first = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        space = os.readlink(f"/proc/{first[0]}/ns/pid") if first else ""
        inmates = [pid for pid in _pids() if _space(pid) == space != ""]
        return sorted(inmates, key=lambda pid: (str(pid) not in first, pid))

    def drop_connections(self) -> int:
        """End every connection that its sshd serves, as a network that forgets them would; gives how many there were."""
        served = [pid for pid in self.processes() if _command(pid).startswith("sshd: root")]
        for pid in served:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(served)

    def connections(self) -> int:
        """Return how many connections its sshd serves."""
        return sum(_command(pid).startswith("sshd: root@") for pid in self.processes())

    def filter(self, action: str, *rule: str) -> None:
        """Change iptables' rules of what comes in."""
        path = f"PATH={os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        _run("ip", "netns", "exec", self.namespace, "env", path, "iptables", "-w", action, "INPUT", *rule)

    def unplug(self) -> None:
        """Take its network away; nobody is told."""
        _run("ip", "link", "set", self.link, "down")

    def plug(self) -> None:
        """Return its network back."""
        _run("ip", "link", "set", self.link, "up")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended: {children.tail(self.log)}"
        return _greets(self.address)


@dataclass
class Rack:
    """Hosts on a network of their own, whose first address is this machine's."""

    folder: Path
    count: int = HOSTS
    prefix: str = field(default_factory=lambda: _free_prefix())  # noqa: PLW0108 - it is defined below
    hosts: list[Host] = field(default_factory=list)

    @property
    def bridge(self) -> str:
        return f"mr{os.getpid() % 10**8}"

    @property
    def address(self) -> str:
        """This machine's address on the hosts' network."""
        return f"{self.prefix}.1"

    @property
    def key_file(self) -> Path:
        """The private key that all hosts take."""
        return self.folder / "id"

    @property
    def known_hosts(self) -> str:
        """The hosts' keys, as of a known_hosts file."""
        return "".join(host.known for host in self.hosts)

    def up(self) -> None:
        """Make network and hosts."""
        _remove_stale()
        Path("/run/sshd").mkdir(exist_ok=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key_file))
        _run("ip", "link", "add", self.bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.address}/24", "dev", self.bridge)
        _run("ip", "link", "set", self.bridge, "up")
        _forward("-I", self.bridge)
        for number in range(self.count):
            self.add(number)

    def add(self, number: int) -> Host:
        """Make one more host and boot it."""
        name, link = f"rack-{number + 1}", f"{self.bridge}v{number}"
        host = Host(
            name=name,
            address=f"{self.prefix}.{11 + number}",
            folder=self.folder / name,
            namespace=f"{self.bridge}-{number}",
            link=link,
        )
        _run("ip", "netns", "add", host.namespace)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _run("ip", "link", "set", link, "master", self.bridge, "up")
        _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _run("ip", "-n", host.namespace, "link", "set", device, "up")
        host.lay_out(self.key_file.with_suffix(".pub").read_text())
        self.hosts.append(host)
        host.boot()
        return host

    def down(self) -> None:
        """Take everything away again."""
        for host in self.hosts:
            host.crash()
            subprocess.run(["ip", "netns", "del", host.namespace], check=False)
            shutil.rmtree(host.home, ignore_errors=True)  # environments with frameworks; pytest would keep them for days
        _forward("-D", self.bridge)
        subprocess.run(["ip", "link", "del", self.bridge], check=False)


@dataclass
class RackStoreServer(StoreServer):
    """``weed mini`` on this machine's address of the rack's network."""

    address: str = ""

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}:{self.ports[0]}"

    def start(self) -> None:
        if self._child is not None:
            return
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        loopback = seaweedfs.argv(self.folder / "data", self.bucket, self.ports)
        argv = [word.replace("127.0.0.1", self.address) for word in loopback]
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        self._child = children.start(argv, self.log, {**os.environ, **keys})
        wait_until(self._is_ready, seaweedfs.START_LIMIT, 0.1, f"SeaweedFS is up; its log is {self.log}")


@pytest.fixture(scope="session")
def rack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    """Yield the rack of the session; a test that takes a host down must boot it again."""
    if os.geteuid() != 0:
        pytest.skip("a rack of SSH hosts is made of namespaces, which only root can make")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [program for program in ("sshd", "ip", "unshare", "ssh-keygen") if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"a rack of SSH hosts needs {', '.join(missing)}; scripts/system.sh installs openssh-server and iproute2")
    rack = Rack(tmp_path_factory.mktemp("rack"))
    try:
        rack.up()
        yield rack
    finally:
        rack.down()


@pytest.fixture(scope="session")
def rack_store_server(rack: Rack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RackStoreServer]:
    """Yield a running store that hosts and this machine both reach; a test that stops it must start it again."""
    server = RackStoreServer(tmp_path_factory.mktemp("rack-weed"), address=rack.address)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def rack_store(rack_store_server: RackStoreServer) -> Store:
    """Return an empty store of the test's own, for hosts of the rack."""
    server = rack_store_server
    return Store(uri=server.fresh_uri(), access=server.access, server=server)


def _remove_stale() -> None:
    """Remove the networks of racks whose makers were killed."""
    for name in re.findall(r"^(mr(\d+)-\d+)", _run("ip", "netns"), re.MULTILINE):
        if not Path(f"/proc/{name[1]}").exists():
            subprocess.run(["ip", "netns", "del", name[0]], check=False)
            subprocess.run(["ip", "link", "del", f"mr{name[1]}"], check=False, capture_output=True)
            _forward("-D", f"mr{name[1]}")


def _free_prefix() -> str:
    taken = _run("ip", "-o", "-4", "addr")
    while True:
        prefix = f"10.{random.randrange(64, 255)}.{random.randrange(255)}"
        if f" {prefix}." not in taken:
            return prefix


def _forward(action: str, bridge: str) -> None:
    """Allow traffic between hosts where a Docker engine forbids what it does not know."""
    if shutil.which("iptables"):
        rule = ["iptables", "-w", action, "FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT"]
        subprocess.run(rule, check=False, capture_output=True)


def _greets(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _space(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
