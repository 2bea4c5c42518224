"""The cache of a host for many jobs: the agent with its libraries, packed code, environments; sent once, found by digest."""

from __future__ import annotations

import asyncio
import os
import secrets
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from muster.core.errors import EnvironmentUnsolvable, RequestError
from muster.core.plan import EnvironmentRef
from muster.targets.contract import Log
from muster.targets.hosts import host_files
from muster.targets.hosts.host_files import DEFAULT_PYTHON, HostInfo
from muster.targets.hosts.shell import Shell

BUILD_TIME = 1800.0  # seconds for installing an environment's packages
START = "muster/node/start.py"
# what builds an environment where it stays: scripts in it hold its path, so it can't be moved into place
BUILD = """
import fcntl, os, shutil, subprocess, sys
home, packages, ready = sys.argv[1:]
os.makedirs(os.path.dirname(home), exist_ok=True)
lock = open(home + ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
if not os.path.exists(os.path.join(home, ready)):
    shutil.rmtree(home, ignore_errors=True)
    own = os.path.join(home, "bin", "python")
    pip = [own, os.path.join(packages, "pip.whl", "pip"), "--disable-pip-version-check", "--no-input", "install"]
    how = ["--no-cache-dir", "--no-index", "--no-deps", "--root-user-action=ignore", "--progress-bar=off"]
    files = sorted(os.path.join(packages, "packages", name) for name in os.listdir(os.path.join(packages, "packages")))
    steps = [[sys.executable, "-m", "venv", "--without-pip", home]]
    if files:
        steps.append([*pip, *how, "--find-links", os.path.join(packages, "build"), *files])
    for step in steps:
        code = subprocess.call(step, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        if code:
            shutil.rmtree(home, ignore_errors=True)
            sys.exit(1)
    open(os.path.join(home, ready), "w").close()
shutil.rmtree(packages, ignore_errors=True)
"""


async def ensure_agent(shell: Shell, root: str, python: str = DEFAULT_PYTHON) -> str:
    """Find or install the agent with its libraries on a host; return the path of its ``start.py``.

    :raises RequestError: the host has no Python that could run it.
    """
    name = agent_name()
    seen = await host_files.inspect_host(shell, root, python, name)
    await put_agent(shell, seen)
    return f"{seen.root}/{name}/{START}"


def agent_name() -> str:
    """Return the folder of this release's agent below a host's root."""
    from muster.packaging import agent_pack

    return "agents/" + agent_pack.agent_digest({**agent_pack.agent_files(), **agent_pack.library_versions()})


async def put_agent(shell: Shell, seen: HostInfo) -> None:
    """Install the agent on an inspected host, unless it is there."""
    from muster.packaging import agent_pack

    if agent_name() in seen.have:
        return
    files = {**agent_pack.agent_files(), **agent_pack.library_files()}
    packed = host_files.tar_of({path: (content, 0o644) for path, content in files.items()})
    await host_files.send_archive(shell, seen.python, seen.root, agent_name(), [packed], compiled=True)


async def ensure_archive(shell: Shell, root: str, archive: Path, python: str = DEFAULT_PYTHON) -> str:
    """Find or send packed code to a host, named by its digest; return its path there."""
    name = f"snapshots/{archive.name}"
    seen = await host_files.inspect_host(shell, root, python, name)
    if name not in seen.have:
        await put_archive(shell, seen, name, archive)
    return f"{seen.root}/{name}"


async def put_archive(shell: Shell, seen: HostInfo, name: str, archive: Path) -> None:
    """Send packed code to a host."""
    size = await asyncio.to_thread(os.path.getsize, archive)
    await host_files.send_file(shell, seen.python, seen.root, name, size, host_files.pieces_of(archive))


async def ensure_environment(shell: Shell, root: str, python: str, ref: EnvironmentRef, log: Log) -> str:
    """Find or build an environment on a host; return its interpreter there.

    Its packages are downloaded on this machine, with pip's settings here, so that the host needs neither an index nor
    credentials for one.

    :raises EnvironmentUnsolvable: a package is not available or can't be installed.
    :raises RequestError: the host has no Python of the version that the lock is made for.
    """
    if ref.interpreter:
        return ref.interpreter
    name = environment_name(ref)
    seen = await host_files.inspect_host(shell, root, python, *filter(None, [name]))
    if not name:
        return seen.python
    if name not in seen.have:
        await _build(shell, seen, name, ref, log)
    return f"{seen.root}/{name}/bin/python"


def environment_name(ref: EnvironmentRef) -> str:
    """Return the folder of an environment below a host's root, "" if the host's own Python is enough."""
    return f"environments/{ref.digest.removeprefix('sha256:')[:16]}" if ref.digest else ""


async def _build(shell: Shell, seen: HostInfo, name: str, ref: EnvironmentRef, log: Log) -> None:
    python = await _python_for(shell, seen, ref.python)
    log(f"building environment {ref.digest[:19]} on {shell.machine}")
    packages = f"packages/{name.rpartition('/')[2]}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="muster-packages-") as folder:
        await _download(Path(folder), seen, ref, log)
        await host_files.send_archive(shell, seen.python, seen.root, packages, _packed(Path(folder)))
    argv = [python, "-I", "-c", BUILD, f"{seen.root}/{name}", f"{seen.root}/{packages}", ".ready"]
    done = await shell.run(argv, limit=BUILD_TIME)
    if done.code:
        reason = [line for line in done.err.decode(errors="replace").splitlines() if line.strip()][-6:]
        text = " | ".join(reason)
        raise EnvironmentUnsolvable(f"environment {ref.digest[:19]} can't be built on host {shell.machine}: {text}")


async def _python_for(shell: Shell, seen: HostInfo, version: str) -> str:
    """Return a Python of the host that has the version which the lock was made for."""
    if version in ("", seen.version):
        return seen.python
    code = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
    done = await shell.run([f"python{version}", "-I", "-S", "-c", code])
    if done.code or done.out.decode() != version:
        raise RequestError(
            f"the environment is made for Python {version}, but host {shell.machine} has {seen.version} ({seen.python}) and no "
            f"python{version}; install it there, or name a Python {seen.version} for the environment"
        )
    return f"python{version}"


async def _download(folder: Path, seen: HostInfo, ref: EnvironmentRef, log: Log) -> None:
    """Download an environment's packages for a host into a folder."""
    from muster.packaging.environment.lock import pinned
    from muster.packaging.image.build_context import BuildContext, Platform
    from muster.packaging.image.recipe import BuildStep, Recipe

    version = ref.python or seen.version
    platform = Platform(python=version, machine=seen.machine, glibc=seen.glibc)
    lines = "".join(f"{line}\n" for line in pinned(ref.lock).values())
    recipe = Recipe(name="host", what="environment", steps=(BuildStep(text="FROM host"),), base="host", packages=lines)
    context = BuildContext(folder=folder, cache=Path(tempfile.gettempdir()) / "muster-tools", platform=platform, log=log)
    await asyncio.to_thread(context.fill, recipe)


def _packed(folder: Path) -> Iterator[bytes]:
    """Yield the tar of a folder in pieces."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        info = tarfile.TarInfo(str(file.relative_to(folder)))
        info.size, info.mode = file.stat().st_size, 0o644
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from host_files.pieces_of(file)
        yield b"\0" * (-info.size % tarfile.BLOCKSIZE)
    for name in ("packages", "build"):
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        yield info.tobuf(tarfile.PAX_FORMAT)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)
