"""Findings about a Docker engine: reachability, clock, images, networks, GPUs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from muster.core.errors import MusterError
from muster.core.finding import Finding
from muster.core.plan import EnvironmentRef
from muster.targets import checks
from muster.targets.docker import image as docker_image
from muster.targets.docker.engine import Engine
from muster.targets.docker.errors import explained
from muster.targets.docker.image import Images

OLDEST_ENGINE = 19  # of which device requests are known


def check(engine: Engine, images: Images, networks: tuple[str, ...], gpus: tuple[str, ...]) -> tuple[Finding, ...]:
    """Check an engine; one that does not answer is the only finding."""
    try:
        with explained("asking for its state", engine.url):
            asked = time.time()
            info: dict[str, Any] = engine.client.info()
            answered = time.time()
            known = {network["Name"] for network in engine.client.networks()}
        image = docker_image.find_image(engine.client, images.base_of(EnvironmentRef()), engine.url)
    except MusterError as error:
        return (Finding.refused("docker engine", error),)
    clock = checks.clock("clock", _time_of(info, asked), asked, answered)
    base = images.base_of(EnvironmentRef())
    there = Finding(
        what="base image", fine=True, text=f"{base} {'is there' if image else 'is not there yet; pulled when needed'}"
    )
    return (_engine(engine, info), clock, there, *_networks(networks, known), *_gpus(gpus, info))


def _engine(engine: Engine, info: dict[str, Any]) -> Finding:
    version = str(info["ServerVersion"])
    machine = f"{info['NCPU']} CPUs, {info['MemTotal'] >> 20} MiB of memory, {info['OperatingSystem']}"
    text = f"Docker {version} at {engine.url} on {info['Name']}: {machine}"
    major = version.partition(".")[0]
    fine = not major.isdigit() or int(major) >= OLDEST_ENGINE
    return Finding.of("docker engine", fine, text, f"update it: Docker {OLDEST_ENGINE}.03 is the oldest that works")


def _time_of(info: dict[str, Any], otherwise: float) -> float:
    """Return the engine's clock in seconds since the epoch."""
    try:
        return datetime.fromisoformat(str(info["SystemTime"])).timestamp()
    except (KeyError, ValueError):
        return otherwise


def _networks(networks: tuple[str, ...], known: set[str]) -> Iterator[Finding]:
    for name in networks:
        text = name if name in known else f"there is none called {name}"
        yield Finding.of("network", name in known, text, f"docker network create {name}, or take it out of networks")


def _gpus(gpus: tuple[str, ...], info: dict[str, Any]) -> Iterator[Finding]:
    if gpus:
        has = "nvidia" in info.get("Runtimes", {}) or bool(info.get("DiscoveredDevices"))
        text = f"{len(gpus)} devices" if has else "the engine knows no NVIDIA runtime"
        yield Finding.of("gpus", has, text, "install the NVIDIA container toolkit on its machine, or take out gpus")
