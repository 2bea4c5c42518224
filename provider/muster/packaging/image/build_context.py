"""Fills a build's context: packages downloaded by this machine's pip and settings, for the Python of the image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from muster.core.errors import EnvironmentUnsolvable, TargetError
from muster.packaging.environment.lock import plain_name
from muster.packaging.environment.pip_settings import PipSettings, for_pip
from muster.packaging.environment.uv import LONGEST_REASON, Log, run_uv, without_credentials
from muster.packaging.image.recipe import PIP_FILE, Recipe

OLDEST_GLIBC = 5  # manylinux1
_ALWAYS = ("setuptools", "wheel")  # build requirements of a source distribution that declares none
_NOISE = re.compile(r"^(WARNING|DEPRECATION|\[notice\])|^\s*$|See above for output|not with pip\.$|^note: ")

# an index's last chance was a timeout, or it gave a file up; pip may have succeeded in a retry after another message
_TRANSIENT = re.compile(
    r"Retrying \(Retry\(total=0,.*(?:Read|Connect)TimeoutError|^ERROR: .*timed out|HTTP error 5\d\d"
    r"|too many 5\d\d error responses"
)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A Python and its platform: ``3.11``, ``x86_64``, the minor version of its glibc (0: another C library)."""

    python: str
    machine: str
    glibc: int

    def flags(self) -> list[str]:
        """Return pip's flags for downloading for this platform; none where the files of this machine fit."""
        own = local_platform()
        if (self.python, self.machine) == (own.python, own.machine) and self.glibc >= own.glibc > 0:
            return []
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, OLDEST_GLIBC - 1, -1)]
        tags += [f"{name}_{self.machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1") if self.glibc]
        tags += [f"musllinux_1_{minor}_{self.machine}" for minor in (2, 1) if not self.glibc]
        platforms = [part for tag in (*tags, f"linux_{self.machine}") for part in ("--platform", tag)]
        return ["--python-version", self.python, "--implementation", "cp", *platforms]


def local_platform() -> Platform:
    """Return the platform of the running Python."""
    import platform

    name, version = platform.libc_ver()
    return Platform(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        machine=platform.machine(),
        glibc=int(version.split(".")[1]) if name == "glibc" else 0,
    )


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """A build's files, in a folder of their own below the cache."""

    folder: Path
    cache: Path
    platform: Platform
    log: Log

    def fill(self, recipe: Recipe) -> None:
        """Download all that a recipe needs.

        :raises EnvironmentUnsolvable: a package is not available; with pip's own reason.
        :raises TargetError: as above, where an index did not answer; pip does not report an index that answers 5xx.
        """
        (self.folder / "Dockerfile").write_text(recipe.dockerfile, encoding="utf-8")
        if recipe.together:
            wheels = self._folder("wheels")
            self._download(wheels, recipe.together, "--only-binary", ":all:")
            self._download(wheels, recipe.sources, "--no-deps", "--no-binary", plain_name(recipe.sources[0]))
        if recipe.stage == "":
            self._fill_environment(recipe)

    def archive(self) -> IO[bytes]:
        """Return the context as an archive, in a file that is deleted once it is closed."""
        import tempfile

        packed = tempfile.TemporaryFile(dir=self.folder.parent)  # noqa: SIM115 - the caller closes it
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(self.folder, arcname=".", filter=_anonymous)
        packed.seek(0)
        return packed

    def _fill_environment(self, recipe: Recipe) -> None:
        packages, build = self._folder("packages"), self._folder("build")
        if recipe.packages:
            requirements = self.folder / "requirements.txt"
            requirements.write_text(recipe.packages, encoding="utf-8")
            self._download(packages, (), "--no-deps", "--requirement", str(requirements))
        sources = sorted(file for file in packages.iterdir() if file.suffix != ".whl")
        # not their names, so that all environments with sources share the layer with the compilers
        (self.folder / "sources.txt").write_text("some\n" if sources else "", encoding="utf-8")
        if sources:
            needs = sorted({*_ALWAYS, *(need for file in sources for need in build_requirements(file))})
            self._download(build, needs, "--only-binary", ":all:")
        shutil.copyfile(self._pip_wheel(), self.folder / PIP_FILE)

    def _folder(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name

    def _download(self, folder: Path, requirements: Sequence[str], *options: str) -> None:
        output = _pip(
            ["download", "--dest", str(folder), *options, *self.platform.flags(), *requirements], self.cache, self.log
        )
        if output is not None:
            what = ", ".join(requirements) or "the locked packages"
            failed = f"{what} can't be downloaded for Python {self.platform.python}: {_reason(output)}"
            if any(map(_TRANSIENT.search, output)):
                raise TargetError(f"{failed}; an index did not answer, try again later")
            raise EnvironmentUnsolvable(failed)

    def _pip_wheel(self) -> Path:
        """Return a wheel of pip, which the image need not have: the one bundled with this Python, or a downloaded one."""
        folder = self.cache / "tools"
        try:
            import ensurepip

            bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
        except ImportError:
            bundled = []
        found = bundled or sorted(folder.glob("pip-*.whl"))
        if not found:
            folder.mkdir(parents=True, exist_ok=True)
            self._download(folder, ("pip",), "--no-deps")
            found = sorted(folder.glob("pip-*.whl"))
        return found[-1]


def build_requirements(source: Path) -> list[str]:
    """Return the declared build requirements of a source distribution."""
    import tomllib

    text = _member(source, "pyproject.toml")
    try:
        requires = tomllib.loads(text).get("build-system", {}).get("requires", [])
    except (tomllib.TOMLDecodeError, AttributeError):  # its build will report it
        return []
    return [requirement for requirement in requires if isinstance(requirement, str)]


def _member(source: Path, name: str) -> str:
    """Return the text of a file at the root of a packed source; "" if there is none."""
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as packed:
            found = [member for member in packed.namelist() if member.count("/") <= 1 and member.rsplit("/", 1)[-1] == name]
            return packed.read(found[0]).decode(errors="replace") if found else ""
    with tarfile.open(source) as archive:
        members = [m for m in archive if m.name.removeprefix("./").count("/") <= 1 and m.name.rsplit("/", 1)[-1] == name]
        file = archive.extractfile(members[0]) if members else None
        return file.read().decode(errors="replace") if file else ""


def _pip(arguments: list[str], cache: Path, log: Log) -> list[str] | None:
    """Run pip; return None, or its output if it failed."""
    argv, environ = _own_pip(cache, log)
    flags = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    process = subprocess.Popen(
        [*argv, *arguments, *flags],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None
    output = []
    with process:
        for line in process.stdout:
            output.append(line.rstrip())
            if output[-1] and not _NOISE.search(output[-1]):
                log(without_credentials(output[-1]))
    return None if process.returncode == 0 else output


def _reason(output: list[str]) -> str:
    """Return pip's error lines as one, else the last lines of its output."""
    errors = [line.removeprefix("ERROR: ") for line in output if line.startswith("ERROR: ")]
    lines = errors or [line.strip() for line in output if not _NOISE.search(line)][-5:]
    return without_credentials(": ".join(dict.fromkeys(" ".join(line.split()) for line in lines)))[:LONGEST_REASON]


def _own_pip(cache: Path, log: Log) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of pip: the one of this Python, else one that uv installs into the cache."""
    from importlib.util import find_spec

    environ = {**os.environ, **for_pip(os.environ)}
    argv = [sys.executable, "-m", "pip"]
    if find_spec("pip") is not None:
        return argv, environ
    folder = cache / "tools" / "pip"
    if not (folder / "pip").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        settings = PipSettings.read(os.environ)
        install = ["pip", "install", "--python", sys.executable, "--target", str(folder), "pip"]
        done = run_uv(install, settings=settings, environ=os.environ, folder=folder, given="", log=log)
        if done.code:
            raise EnvironmentUnsolvable(f"pip, which downloads packages for images, is not available: {done.reason}")
    return argv, {**environ, "PYTHONPATH": str(folder)}


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove owner and mode from an entry, as the engine's cache compares them too."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry
