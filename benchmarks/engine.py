"""The Docker engine of a benchmark: its command line, the base image, a store that containers reach, and clearing up."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import seaweedfs
from benchmarks.ours import BUCKET, KEYS
from benchmarks.peers import BenchError

BASE_IMAGES = (os.environ.get("MUSTER_BENCH_BASE_IMAGE", ""), "local/python:3.11-slim", "python:3.11-slim")
LABEL = "muster.bench"


def docker(*words: str, given: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """Run the docker command line and give what it printed."""
    argv = [executable(), *words]
    told = {**os.environ, **(environ or {})}
    done = subprocess.run(argv, input=given, env=told, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def executable() -> str:
    """Return the docker command line; the one that came with the engine, if it did."""
    return shutil.which("docker", path=f"/usr/bin:{os.environ.get('PATH', os.defpath)}") or "docker"


def base_image() -> str:
    """Return the image that everything here is built on.

    :raises BenchError: none is there.
    """
    for name in filter(None, BASE_IMAGES):
        if docker("images", "--quiet", name).strip():
            return name
    named = ", ".join(filter(None, BASE_IMAGES))
    raise BenchError(f"none of {named} is on the engine; pull one, or make one with scripts/base_image.sh")


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """Run a store for as long as the context lasts; gives its endpoint, which containers reach by their gateway."""
    with seaweedfs.server(folder, BUCKET, *KEYS.values(), address=_gateway()) as endpoint:
        yield endpoint


def _gateway() -> str:
    """Return this machine's address on the engine's own bridge; an engine in its first life tells its subnet only."""
    [place] = json.loads(docker("network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"))
    return place.get("Gateway") or str(next(ipaddress.ip_network(place["Subnet"]).hosts()))


def build(name: str, dockerfile: str, files: Mapping[str, str], folder: Path) -> str:
    """Build an image of a peer's and give its name."""
    context = folder / name.replace("/", "-")
    context.mkdir(parents=True, exist_ok=True)
    for path, text in {"Dockerfile": dockerfile, **files}.items():
        (context / path).write_text(text, encoding="utf-8")
    docker("build", "--quiet", "--label", LABEL, "--tag", name, str(context), environ={"DOCKER_BUILDKIT": "0"})
    return name


def remove(containers: Sequence[str] = (), networks: Sequence[str] = (), images: Sequence[str] = ()) -> None:
    """Remove what is there of these; what is not is fine."""
    for kind, names in (("rm", containers), ("rmi", images)):
        if names:
            subprocess.run([executable(), kind, "--force", *names], capture_output=True, check=False, timeout=120)
    for network in networks:
        subprocess.run([executable(), "network", "rm", network], capture_output=True, check=False, timeout=120)
