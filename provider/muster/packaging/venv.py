"""Venv: an environment's lock installed on this machine, once for each digest."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from muster.core.errors import EnvironmentUnsolvable
from muster.core.plan import EnvironmentRef
from muster.packaging.lock import reason, uv
from muster.packaging.pip_settings import pip_settings, uv_environment

READY = ".ready"


def folder(environment: EnvironmentRef, root: Path) -> Path:
    """Give where an environment lies below a target's root."""
    return root / "environments" / environment.digest.removeprefix("sha256:")[:24]


def interpreter(environment: EnvironmentRef, root: Path) -> Path:
    """Give an environment's Python."""
    return folder(environment, root) / "bin" / "python"


def ensure(environment: EnvironmentRef, root: Path, log: Callable[[str], None]) -> Path:
    """Find an environment, or build it; gives its Python. Two who want the same one build it once.

    :raises EnvironmentUnsolvable: a package does not install; the message has the reason.
    """
    home = folder(environment, root)
    if not (home / READY).exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(home.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not (home / READY).exists():
                _build(environment, home, log)
        finally:
            os.close(descriptor)
    return interpreter(environment, root)


def _build(environment: EnvironmentRef, home: Path, log: Callable[[str], None]) -> None:
    """Build in place: a venv can't be moved. What a killed build left is removed first; the mark of a whole one comes last."""
    shutil.rmtree(home, ignore_errors=True)
    log(f"building environment {environment.digest}")
    _uv(["venv", "--quiet", "--python", sys.executable, str(home)], "", log)
    python = str(home / "bin" / "python")
    _uv(
        ["pip", "install", "--no-deps", "--python", python, *pip_settings(os.environ).arguments(), "-r", "-"],
        environment.lock,
        log,
    )
    (home / READY).touch()
    log(f"environment {environment.digest} is ready")


def _uv(arguments: list[str], text: str, log: Callable[[str], None]) -> None:
    """Run uv, telling what it says line by line."""
    env = uv_environment(pip_settings(os.environ))
    pipe = subprocess.PIPE
    with subprocess.Popen([uv(), *arguments], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=env) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(text)
        child.stdin.close()
        said = [line.rstrip() for line in _told(child.stdout, log)]
    if child.returncode != 0:
        raise EnvironmentUnsolvable(f"the environment can't be built: {reason(chr(10).join(said[-20:]))}")


def _told(lines: object, log: Callable[[str], None]) -> list[str]:
    said = []
    for line in lines:  # type: ignore[attr-defined]
        said.append(line)
        log(line.rstrip())
    return said
