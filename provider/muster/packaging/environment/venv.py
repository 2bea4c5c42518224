"""Environments as venvs: built once from a lock, found again by its digest."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from muster.core.errors import EnvironmentUnsolvable
from muster.core.plan import EnvironmentRef
from muster.packaging.environment.pip_settings import PipSettings
from muster.packaging.environment.uv import Log, UvResult, run_uv

READY = ".ready"  # written last: a folder without it was left by a build that did not end
LOCK = "muster.lock"


def interpreter(ref: EnvironmentRef, root: Path) -> Path:
    """Return the path of an environment's Python below ``root``, built or not."""
    return _home(ref, root) / "bin" / "python"


def ensure_venv(ref: EnvironmentRef, root: Path, log: Log) -> Path:
    """Build an environment below ``root/environments``, unless it is there; return its Python.

    Of several processes that build the same environment one does it.

    :raises EnvironmentUnsolvable: the environment can't be built; with the installer's own reason.
    """
    home = _home(ref, root)
    if not _is_ready(home):
        home.parent.mkdir(parents=True, exist_ok=True)
        with _locked(home.with_suffix(".lock"), log):
            if not _is_ready(home):
                _build(ref, home, log)
    return home / "bin" / "python"


def _home(ref: EnvironmentRef, root: Path) -> Path:
    # short: the first line of its scripts has room for 127 characters
    return root / "environments" / ref.digest.removeprefix("sha256:")[:16]


def _is_ready(home: Path) -> bool:
    # a venv whose base interpreter is gone is a folder of dangling links
    return (home / READY).exists() and (home / "bin" / "python").exists()


def _build(ref: EnvironmentRef, home: Path, log: Log) -> None:
    log(f"building environment {ref.digest[:19]} in {home}")
    shutil.rmtree(home, ignore_errors=True)
    try:
        _checked(_uv("venv", "--quiet", "--no-project", "--python", _base(ref), str(home), home=home, log=log), ref)
        (home / LOCK).write_text(ref.lock, encoding="utf-8")
        python = str(home / "bin" / "python")
        install = ("pip", "install", "--python", python, "--no-deps", "--requirements", str(home / LOCK))
        _checked(_uv(*install, home=home, log=log), ref)
        (home / READY).touch()
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


def _uv(*arguments: str, home: Path, log: Log) -> UvResult:
    settings = PipSettings.read(os.environ)
    return run_uv(arguments, settings=settings, environ=os.environ, folder=home.parent, given="", log=log)


def _checked(result: UvResult, ref: EnvironmentRef) -> None:
    if result.code:
        raise EnvironmentUnsolvable(f"environment {ref.digest[:19]} can't be built: {result.reason}")


def _base(ref: EnvironmentRef) -> str:
    """Return the base Python of a venv: this one if it has the version, else the version for uv to find."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return sys.executable if ref.python in ("", own) else ref.python


@contextlib.contextmanager
def _locked(path: Path, log: Log) -> Iterator[None]:
    """Hold a lock, which the kernel releases when its process ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("waiting for another process that builds the same environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
