"""What `check` says of a Docker engine: whether it answers, its images and networks, and whether it can give GPUs."""

from __future__ import annotations

from typing import Any

from muster.core.errors import MusterError
from muster.core.plan import EnvironmentRef
from muster.targets.docker import image as docker_image
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import explained
from muster.targets.docker.image import Images

Finding = tuple[str, bool, str]


def check(engine: Engine, images: Images, networks: tuple[str, ...], gpus: tuple[str, ...]) -> list[Finding]:
    """Look at an engine: (what, fine, finding or remedy) for each thing looked at."""
    try:
        with explained("asking for its state", engine.url):
            info: dict[str, Any] = engine.client.info()
            known = {network["Name"] for network in engine.client.networks()}
        image = docker_image.find(engine.client, images.base_of(EnvironmentRef()), engine.url)
    except MusterError as error:
        return [("engine", False, str(error))]
    machine = f"{info['NCPU']} CPUs, {info['MemTotal'] >> 20} MiB of memory, {info['OperatingSystem']}"
    findings = [("engine", True, f"Docker {info['ServerVersion']} at {engine.url} on {info['Name']}: {machine}")]
    base = images.base_of(EnvironmentRef())
    findings.append(("base image", True, f"{base} {'is there' if image else 'is not there yet; it is pulled when needed'}"))
    for name in networks:
        findings.append(
            ("network", name in known, name if name in known else f"there is none called {name}; make it or drop it")
        )
    if gpus:
        has = "nvidia" in info.get("Runtimes", {}) or bool(info.get("DiscoveredDevices"))
        remedy = "no NVIDIA runtime is known to it; install the NVIDIA container toolkit"
        findings.append(("gpus", has, f"{len(gpus)} devices" if has else remedy))
    return findings
