"""The facts of one node: what it is and has, gathered before any rank is started."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from muster.core.placeholder import Here
from muster.core.plan import JobPlan, PortRequest
from muster.node.preflight import content_digests, network
from muster.node.preflight.network import Interface

MAX_CLOCK_SKEW = 30.0  # seconds; clocks that are more apart make deadlines, signatures and the order of events wrong
SMI_LIMIT = 30.0  # seconds; a driver that keeps nvidia-smi longer than that hangs
PORTS_APART = 16  # between the first ports of two nodes of one machine
PORTS_TRIED = 512
GPU_QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total,driver_version,uuid", "--format=csv,noheader")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that one node reports. ``memory`` and ``disk`` in free bytes, ``clock`` in seconds since the epoch.

    ``address`` and ``interface`` are those that the agents meet over. ``gpus`` has one line for each device (index, name,
    memory); ``ports`` those found free, by name; ``missing`` the required programs that are not on the PATH. ``snapshot`` is
    the digest of the code on the node, ``packages`` that of the names and versions installed beside the ranks' interpreter; ""
    where there are none.
    """

    node: int
    host: str
    address: str = ""
    interface: str = ""
    cpus: int = 0
    memory: int = 0
    disk: int = 0
    gpus: tuple[str, ...] = ()
    driver: str = ""
    ports: dict[str, int]
    clock: float
    python: str = ""
    kernel: str = ""
    snapshot: str = ""
    environment: str = ""
    packages: str = ""
    interfaces: tuple[Interface, ...] = ()
    missing: tuple[str, ...] = ()
    folder: str = ""  # the node's own, on its host or in its container
    problem: str = ""  # set by the node itself when it sees that it can't run the job


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device as nvidia-smi lists it; ``uuid`` is "" where it doesn't."""

    index: str
    name: str
    memory: str
    driver: str
    uuid: str = ""

    def matches(self, name: str) -> bool:
        """Return whether a name of CUDA_VISIBLE_DEVICES means this device: its index, or the beginning of its UUID."""
        return name == self.index or (not name.isdigit() and bool(name) and self.uuid.startswith(name))


def gather(
    *,
    node: int,
    address: str,
    plan: JobPlan,
    work: Path,
    interpreter: str,
    devices: tuple[str, ...],
    path: str = os.defpath,
    code: Path | None = None,
) -> Facts:
    """Return the facts of this node. ``address`` may be a name; ``devices`` limits which GPUs count, empty for all of them;
    ``path`` is the PATH of the ranks; ``code`` the folder with the unpacked code, None if it need not be read.

    Never raises for what it finds: a node that can't be inspected has the reason in ``problem``.
    """
    try:
        return _gather(node, address, plan, work, interpreter, devices, path, code)
    except OSError as error:
        return broken(node, str(error))


def broken(node: int, problem: str) -> Facts:
    """Return the facts of a node that could not be inspected."""
    return Facts(node=node, host=socket.gethostname(), ports={}, clock=time.time(), problem=problem)


def _gather(  # noqa: PLR0917
    node: int,
    address: str,
    plan: JobPlan,
    work: Path,
    interpreter: str,
    devices: tuple[str, ...],
    path: str,
    code: Path | None,
) -> Facts:
    gpus, driver, problem = gpu_report(devices) if plan.needs.gpus else ((), "", "")
    address = resolve_host(address or socket.gethostname())
    interfaces = network.interfaces()
    return Facts(
        node=node,
        host=socket.gethostname(),
        address=address,
        interface=network.own_interface(address, interfaces),
        cpus=len(os.sched_getaffinity(0)),
        memory=free_memory(),
        disk=_free_disk(work),
        gpus=gpus,
        driver=driver,
        ports=find_ports(address, shift_ports(plan.nodes[node].ports, address, node)),
        clock=time.time(),
        python=platform.python_version(),
        kernel=platform.release(),
        snapshot=content_digests.snapshot_of(code) if code is not None and plan.snapshot else plan.snapshot,
        environment=plan.environment.digest,
        packages=content_digests.digest_of(content_digests.packages(interpreter)),
        interfaces=interfaces,
        folder=str(work),
        missing=tuple(program for program in plan.needs.programs if not _is_on(path, program)),
        problem=problem or interpreter_problem(interpreter, path, plan, node) or _inode_problem(work),
    )


def resolve_host(address: str, timeout: float = 10.0) -> str:
    """Return the IPv4 address of a host name; names of containers may appear a moment after the containers.

    :raises OSError: nobody knows the name.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.gethostbyname(address)
        except OSError as error:
            if time.monotonic() > deadline:
                remedy = "write it into /etc/hosts there, or give the node an address"
                raise OSError(f"its own name {address!r} can't be resolved: {error.strerror}; {remedy}") from error
            time.sleep(0.05)


def interpreter_problem(interpreter: str, path: str, plan: JobPlan, node: int) -> str:
    """Return what is wrong with the ranks' interpreter, "" if it can be run or isn't needed."""
    if interpreter:
        fine = os.access(interpreter, os.X_OK)
        remedy = "install it there, or correct the environment's interpreter"
        return "" if fine else f"its Python interpreter {interpreter!r} is missing or not executable; {remedy}"
    words = (word for rank in plan.nodes[node].ranks for text in rank.argv for word in text)
    needed = Here(here="interpreter") in words
    return "it has no python3 on its PATH; install Python there" if needed and not _is_on(path, "python3") else ""


def _is_on(path: str, program: str) -> bool:
    import shutil  # not needed by most jobs, and the agent stays small

    return shutil.which(program, path=path) is not None


def _free_disk(work: Path) -> int:
    status = os.statvfs(work)
    return status.f_bavail * status.f_frsize


def _inode_problem(work: Path) -> str:
    status = os.statvfs(work)
    full = status.f_files and status.f_favail < 16
    return f"its disk has room for {status.f_favail} more files only; delete some below {work}" if full else ""


# -- GPUs


def gpu_report(devices: tuple[str, ...]) -> tuple[tuple[str, ...], str, str]:
    """Ask nvidia-smi for devices and driver; return (one line a device, driver version, problem or "")."""
    try:
        done = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=SMI_LIMIT, check=False)
    except FileNotFoundError:
        return (), "", "GPUs were asked for, but there is no nvidia-smi on its PATH; install the NVIDIA driver there"
    except subprocess.TimeoutExpired:
        return (), "", f"nvidia-smi did not answer in {SMI_LIMIT:g} s; the driver may hang: reboot it, or take it out"
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()[:300]
        return (), "", f"nvidia-smi failed: {output}; repair its driver (a reboot helps after an upgrade)"
    found = gpus_of(done.stdout)
    used = [gpu for gpu in found if not devices or any(gpu.matches(name) for name in devices)]
    lines = tuple(f"{gpu.index}, {gpu.name}, {gpu.memory}" for gpu in used)
    return lines, found[0].driver if found else "", ""


def gpus_of(output: str) -> tuple[Gpu, ...]:
    """Read the output of :data:`GPU_QUERY`; skip lines that are no devices."""
    rows = ([cell.strip() for cell in line.split(",")] for line in output.splitlines())
    return tuple(
        Gpu(index=row[0], name=row[1], memory=row[2], driver=row[3], uuid=row[4] if len(row) > 4 else "")
        for row in rows
        if len(row) >= 4
    )


# -- ports, memory


def shift_ports(requests: Iterable[PortRequest], address: str, node: int) -> Iterable[PortRequest]:
    """Shift the ports of nodes that share a machine: some programs listen on all addresses, whichever they were given."""
    step = node * PORTS_APART if address.startswith(network.LOOPBACK_RANGE) else 0
    return tuple(replace(request, near=request.near + step) for request in requests)


def find_ports(address: str, requests: Iterable[PortRequest]) -> dict[str, int]:
    """Return a free port for each request, from its ``near`` upwards; all differ."""
    found: dict[str, int] = {}
    for request in requests:
        for port in range(request.near, min(request.near + PORTS_TRIED, 65536)):
            if port not in found.values() and is_port_free(address, port):
                found[request.name] = port
                break
    return found


def is_port_free(address: str, port: int) -> bool:
    """Return whether a port can be bound on an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_memory() -> int:
    """Return the memory in bytes that is available without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
