"""Preflight: what this node is and has, and whether it fits the job; a misfit is named before any rank is started."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from muster.core.plan import JobPlan, PortWish
from muster.core.verdict import Cause, Verdict
from muster.node import explain, network
from muster.node.network import Interface

MIN_FREE_DISK = 64 << 20  # bytes; below it not even logs are safe
MAX_CLOCK_SKEW = 30.0  # seconds between a node's clock and the leader's; more is noted, not refused
PORTS_APART = 16  # between the first ports of two nodes of one machine
PORTS_TRIED = 512


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one node reports. ``memory`` and ``disk`` in free bytes, ``clock`` in seconds since the epoch.

    ``address`` and ``interface`` are those that the agents meet over. ``gpus`` has one line for each device (index, name,
    memory); ``ports`` those found free by the wishes' names; ``missing`` the wanted programs that are not on the PATH.
    """

    node: int
    host: str
    address: str
    interface: str
    cpus: int
    memory: int
    disk: int
    gpus: tuple[str, ...]
    driver: str
    ports: dict[str, int]
    clock: float
    python: str
    kernel: str
    snapshot: str
    environment: str
    interfaces: tuple[Interface, ...] = ()
    missing: tuple[str, ...] = ()
    folder: str = ""  # the node's own, on its host or in its container
    problem: str = ""  # set by the node itself when it sees that it can't run the job


def gather(
    *, node: int, address: str, plan: JobPlan, work: Path, interpreter: str, devices: tuple[str, ...], path: str = os.defpath
) -> Facts:
    """Look at this node. ``address`` may be a name; ``devices`` limits which GPUs count, empty for all of them; ``path`` is
    the PATH of the ranks.
    """
    gpus, driver, problem = gpu_report(devices) if plan.needs.gpus else ((), "", "")
    address = resolved(address or socket.gethostname())
    having = network.interfaces()
    return Facts(
        node=node,
        host=socket.gethostname(),
        address=address,
        interface=network.own_interface(address, having),
        cpus=len(os.sched_getaffinity(0)),
        memory=free_memory(),
        disk=shutil.disk_usage(work).free,
        gpus=gpus,
        driver=driver,
        ports=find_ports(address, shifted(plan.nodes[node].ports, address, node)),
        clock=time.time(),
        python=platform.python_version(),
        kernel=platform.release(),
        snapshot=plan.snapshot,
        environment=plan.environment.digest,
        interfaces=having,
        folder=str(work),
        missing=tuple(program for program in plan.needs.programs if shutil.which(program, path=path) is None),
        problem=problem or interpreter_problem(interpreter),
    )


def resolved(address: str, patience: float = 10.0) -> str:
    """Give the IPv4 address of a host name; names of containers may appear a moment after the containers.

    :raises OSError: nobody knows the name.
    """
    give_up = time.monotonic() + patience
    while True:
        try:
            return socket.gethostbyname(address)
        except OSError as error:
            if time.monotonic() > give_up:
                raise OSError(f"this node's own name {address!r} can't be resolved: {error}") from error
            time.sleep(0.05)


def interpreter_problem(interpreter: str) -> str:
    """Say what is wrong with the ranks' interpreter, "" if it can be run."""
    if not interpreter or os.access(interpreter, os.X_OK):
        return ""
    return f"its Python interpreter {interpreter!r} is missing or not executable"


def gpu_report(devices: tuple[str, ...]) -> tuple[tuple[str, ...], str, str]:
    """Ask nvidia-smi for devices and driver; gives (one line a device, driver version, problem or "")."""
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return (), "", "GPUs were asked for, but there is no nvidia-smi on its PATH"
    except subprocess.TimeoutExpired:
        return (), "", "nvidia-smi did not answer in 60 s; the driver may hang"
    if done.returncode != 0:
        return (), "", f"nvidia-smi failed: {(done.stdout + done.stderr).strip()[:300]}"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    wanted = [row for row in rows if not devices or row[0] in devices]
    return tuple(", ".join(row[:3]) for row in wanted), rows[0][3] if rows else "", ""


def shifted(wishes: Iterable[PortWish], address: str, node: int) -> Iterable[PortWish]:
    """Keep nodes that share a machine apart: some programs listen on all of its addresses, whichever they were given."""
    step = node * PORTS_APART if address.startswith("127.") else 0
    return tuple(replace(wish, near=wish.near + step) for wish in wishes)


def find_ports(address: str, wishes: Iterable[PortWish]) -> dict[str, int]:
    """Find a free port for each wish, from its ``near`` upwards; all differ."""
    found: dict[str, int] = {}
    for wish in wishes:
        for port in range(wish.near, min(wish.near + PORTS_TRIED, 65536)):
            if port not in found.values() and port_free(address, port):
                found[wish.name] = port
                break
    return found


def port_free(address: str, port: int) -> bool:
    """Whether a port can be bound on an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_memory() -> int:
    """Give the memory in bytes that could be had without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def misfit(plan: JobPlan, facts: Iterable[Facts]) -> Verdict | None:
    """Give the verdict on the first node that doesn't fit, by name; None when all do."""
    for node in sorted(facts, key=lambda f: f.node):
        problem = _misfit_of(plan, node)
        if problem:
            return unfit(node, problem)
    return None


def unfit(node: Facts, problem: str) -> Verdict:
    """Give the verdict on a node that does not fit."""
    detail = f"node {node.node} ({node.host}) does not fit: {problem}; no rank was started"
    return Verdict(cause=Cause.PREFLIGHT, node=node.node, host=node.host, detail=detail)


def _misfit_of(plan: JobPlan, node: Facts) -> str:
    needs = plan.needs
    missing = [wish.name for wish in plan.nodes[node.node].ports if wish.name not in node.ports]
    checks = (
        (bool(node.problem), node.problem),
        (len(node.gpus) < needs.gpus, f"{needs.gpus} GPUs were asked for, it has {len(node.gpus)} for this job"),
        (node.cpus < needs.cpus, f"{needs.cpus:g} CPUs were asked for, it has {node.cpus}"),
        (node.memory < needs.memory, f"{needs.memory} bytes of memory were asked for, {node.memory} are free"),
        (node.disk < MIN_FREE_DISK, f"its disk has {node.disk} bytes free, at least {MIN_FREE_DISK} are needed"),
        (bool(missing), f"no free port for {', '.join(missing)}"),
        (bool(node.missing), f"it has no {' and no '.join(node.missing)} on its PATH{explain.remedy(node.missing)}"),
    )
    return next((problem for bad, problem in checks if bad), "")


def differences(facts: Iterable[Facts], now: float) -> list[str]:
    """Give what is odd between nodes but no reason to refuse: clocks apart, drivers that differ."""
    nodes = list(facts)
    notes = [
        f"clock of node {f.node} ({f.host}) is {f.clock - now:+.0f} s off the leader's"
        for f in nodes
        if abs(f.clock - now) > MAX_CLOCK_SKEW
    ]
    drivers = {f.driver for f in nodes if f.driver}
    return [*notes, *([f"GPU drivers differ between nodes: {', '.join(sorted(drivers))}"] if len(drivers) > 1 else [])]
