"""A base image with Python in the engine: the public one where there is a registry, else one made of Debian's own packages.

``base_image.py [VERSION]`` prints the image's name; VERSION is of Python, such as 3.11. Making one needs root and debootstrap.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker import DockerClient

SUITES = {"3.11": "bookworm", "3.13": "trixie"}  # of Debian, by the Python that each has
AUTHORITIES = Path("/usr/local/share/ca-certificates")  # which this machine trusts besides the usual ones
ALL_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
PULL_LIMIT = 60.0
SAID = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


class NoBaseImage(Exception):
    """None can be had; says why."""


def ensure(engine: DockerClient, version: str) -> str:
    """Return the name of a base image with this Python, which is then in the engine.

    :raises NoBaseImage: it can be neither pulled nor made.
    """
    own, public = f"local/python:{version}-slim", f"python:{version}-slim"
    for name in (own, public):
        if has(engine, name):
            return name
    if pulled(engine, public):
        return public
    make(engine, version, own)
    return own


def has(engine: DockerClient, name: str) -> bool:
    """Return whether the engine has an image."""
    from docker.errors import ImageNotFound

    try:
        engine.images.get(name)
    except ImageNotFound:
        return False
    return True


def pulled(engine: DockerClient, name: str) -> bool:
    """Return whether an image could be pulled; a registry that is firewalled off must not hold up everything."""
    from docker.errors import DockerException

    def pull() -> None:
        try:
            engine.images.pull(name)
        except DockerException:
            pass

    puller = threading.Thread(target=pull, daemon=True)
    puller.start()
    puller.join(PULL_LIMIT)
    return has(engine, name)


def make(engine: DockerClient, version: str, name: str) -> None:
    """Make a base image: Debian by debootstrap, then Python by apt, and the certificates that this machine trusts."""
    suite = SUITES.get(version)
    if suite is None:
        raise NoBaseImage(f"python:{version}-slim can't be pulled, and no Debian has Python {version} to make one of")
    if os.geteuid() != 0:
        raise NoBaseImage(f"python:{version}-slim can't be pulled, and making one needs root")
    debian = f"local/debian:{suite}"
    if not has(engine, debian):
        log(f"making {debian} by debootstrap")
        bootstrap(engine, suite, debian)
    log(f"making {name}")
    build(engine, debian, name)


def bootstrap(engine: DockerClient, suite: str, name: str) -> None:
    """Import a minimal Debian as an image."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "rootfs"
        run(["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, str(root)])
        packed = Path(scratch) / "rootfs.tar"
        run(["tar", "-C", str(root), "-cf", str(packed), "."])
        repository, _, tag = name.partition(":")
        with packed.open("rb") as archive:
            engine.api.import_image_from_data(archive, repository=repository, tag=tag)
    if not has(engine, name):
        raise NoBaseImage(f"{name} was not imported; look at the engine's log")


def build(engine: DockerClient, debian: str, name: str) -> None:
    """Put Python on Debian."""
    from docker.errors import BuildError

    certificates = sorted(AUTHORITIES.rglob("*.crt")) if AUTHORITIES.is_dir() else []
    try:
        engine.images.build(fileobj=context(debian, certificates), custom_context=True, tag=name, rm=True, forcerm=True)
    except BuildError as error:
        said = "".join(str(line.get("stream", "")) for line in error.build_log)  # type: ignore[union-attr]
        raise NoBaseImage(f"{name} can't be built: {error}: {said[-1000:]}") from error


def dockerfile(debian: str, with_certificates: bool) -> str:
    """Return the Dockerfile; it has what the public image has: Python with pip and venv, and free of Debian's ban on pip."""
    lines = [
        f"FROM {debian}",
        "ENV LANG=C.UTF-8",
        "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates"
        " python3 python3-pip python3-venv && ln -sf python3 /usr/bin/python && rm -f /usr/lib/python3*/EXTERNALLY-MANAGED"
        " && rm -rf /var/lib/apt/lists/*",
        'CMD ["python3"]',
    ]
    if with_certificates:
        told = " ".join(f"{variable}={ALL_AUTHORITIES}" for variable in SAID)
        lines[2:2] = [f"COPY certificates/ {AUTHORITIES}/"]
        lines[4:4] = ["RUN update-ca-certificates", f"ENV {told}"]
    return "".join(f"{line}\n" for line in lines)


def context(debian: str, certificates: Iterable[Path]) -> io.BytesIO:
    """Return what the build needs as an archive."""
    files = {f"certificates/{path.name}": path.read_bytes() for path in certificates}
    files["Dockerfile"] = dockerfile(debian, bool(files)).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    return packed


def run(argv: list[str]) -> None:
    """Run a program; what it says is shown when it fails."""
    environ: dict[str, Any] = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError as error:
        raise NoBaseImage(f"{argv[0]} is not installed; scripts/system.sh installs it") from error
    if done.returncode:
        raise NoBaseImage(f"{argv[0]} failed with {done.returncode}: {done.stdout[-1000:]}")


def log(text: str) -> None:
    """Print what takes so long."""
    print(f"base image: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Print the name of the base image."""
    import docker

    version = sys.argv[1] if len(sys.argv) > 1 else f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        print(ensure(docker.from_env(timeout=300), version))
    except (NoBaseImage, docker.errors.DockerException) as error:
        log(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
