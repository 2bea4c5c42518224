"""The lock: every package of an environment with its exact version, resolved once for the same requirements."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.core.codec import digest
from muster.core.errors import EnvironmentUnsolvable, RequestError
from muster.core.plan import EnvironmentRef
from muster.packaging.environment.pip_settings import PipSettings
from muster.packaging.environment.uv import Log, run_uv
from muster.request.environment import REQUIREMENTS

LOCK_VERSION = 2

# settings of uv's own that change what it resolves to
_UV_VARIABLES = (
    "UV_CONSTRAINT",
    "UV_DEFAULT_INDEX",
    "UV_EXCLUDE_NEWER",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INDEX_URL",
    "UV_NO_INDEX",
    "UV_OVERRIDE",
    "UV_PRERELEASE",
    "UV_RESOLUTION",
    "UV_TORCH_BACKEND",
)
_OTHER_FILE = re.compile(r"\s*(?:-r|--requirement|-c|--constraint)(?:\s+|=|(?<=-[rc]))(?P<path>\S.*?)\s*(?:\s#.*)?")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_NEVER = "python_version < '0'"  # the marker of a requirement that no Python has
_VERSION = re.compile(r"3\.[0-9]+")


@dataclass(frozen=True, kw_only=True)
class _Requirements:
    """The input of the resolver: requirement lines, and files of them."""

    lines: tuple[str, ...]
    files: tuple[Path, ...]

    @classmethod
    def of(cls, packages: Sequence[str]) -> _Requirements:
        return cls(
            lines=tuple(line for line in packages if not line.startswith(REQUIREMENTS)),
            files=tuple(Path(line.removeprefix(REQUIREMENTS)) for line in packages if line.startswith(REQUIREMENTS)),
        )

    def overrides(self) -> tuple[str, ...]:
        """Return the packages to leave out: Keras requires the large tensorflow even beside tensorflow-cpu, which replaces it.

        :raises RequestError: a file can't be read.
        """
        texts = (text for file in self.files for text in _contents(file, frozenset()))
        names = {plain_name(line) for text in ("\n".join(self.lines), *texts) for line in text.splitlines()}
        return (f"tensorflow ; {_NEVER}",) if "tensorflow-cpu" in names and "tensorflow" not in names else ()


def lock_packages(packages: Sequence[str], *, python: str, cache: Path, log: Log) -> EnvironmentRef:
    """Resolve ``packages``: requirement lines, and ``-r <absolute path>`` for a file of them.

    ``python`` is an interpreter's path, or its version such as ``3.12``. The lock is kept in ``cache``: the same
    requirements give the same lock for ever, so that a retry gets the packages of the first try.

    :raises EnvironmentUnsolvable: the resolver can't satisfy the packages; with its own reason.
    :raises RequestError: a file of requirements can't be read.
    """
    version, requirements = _version(python), _Requirements.of(packages)
    settings = PipSettings.read(os.environ)
    file = cache / "locks" / f"{_key(requirements, version, settings, os.environ)}.txt"
    lock = _read(file)
    if not packages:
        lock = ""
    if lock is None:
        log(f"resolving {_count(len(requirements.lines), 'package')} for Python {version}")
        lock = _resolve(requirements, python, settings, _created(file.parent), log)
        _write(file, lock)
    ref = EnvironmentRef(digest=digest({"lock": lock, "python": version}), lock=lock, python=version)
    log(f"environment {ref.digest[:19]}, Python {version}: {', '.join(lock.split()) or 'no packages'}")
    return ref


def _resolve(requirements: _Requirements, python: str, settings: PipSettings, folder: Path, log: Log) -> str:
    arguments = ["pip", "compile", "--no-header", "--no-annotate", "--no-progress", *_for_python(python)]
    sources = [*(["-"] if requirements.lines else []), *map(str, requirements.files)]
    given = "".join(f"{line}\n" for line in requirements.lines)
    lines: list[str] = []  # logged only after success: a failure has its own sentence
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".txt", encoding="utf-8") as overrides:
        if requirements.overrides():
            overrides.writelines(f"{line}\n" for line in requirements.overrides())
            overrides.flush()
            arguments += ["--overrides", overrides.name]
        done = run_uv(
            [*arguments, *sources], settings=settings, environ=os.environ, folder=folder, given=given, log=lines.append
        )
    if done.code:
        raise EnvironmentUnsolvable(f"the packages {', '.join(_shown(requirements))} can't be resolved: {done.reason}")
    for line in lines:
        log(line)
    return done.output


def _for_python(python: str) -> list[str]:
    """Return the flags for a Python; another version than this one need not be on this machine, as nothing is installed."""
    if _VERSION.fullmatch(python) and python != _version(sys.executable):
        return ["--python-version", python]
    return ["--python", sys.executable if _VERSION.fullmatch(python) else python]


def _shown(requirements: _Requirements) -> Iterator[str]:
    yield from requirements.lines
    yield from (file.name for file in requirements.files)


def _key(requirements: _Requirements, version: str, settings: PipSettings, environ: Mapping[str, str]) -> str:
    """Return the name of a lock: the digest of everything that decides it."""
    decisive = {
        "version": LOCK_VERSION,
        "lines": requirements.lines,
        "files": [list(_contents(file, frozenset())) for file in requirements.files],
        "overrides": requirements.overrides(),
        "python": version,
        "platform": [sys.platform, os.uname().machine],
        "options": {option: values for option, values in settings.options.items() if option != "cert"},
        "uv": {name: environ[name] for name in _UV_VARIABLES if name in environ},
    }
    return digest(decisive).removeprefix("sha256:")[:32]


def _contents(file: Path, above: frozenset[Path]) -> Iterator[str]:
    """Yield the text of a requirements file and of those that it names."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"pip_requirements_file {str(file)!r} can't be read: {why}; correct its path or content") from error
    yield text
    for line in text.splitlines():
        other = _OTHER_FILE.fullmatch(line)
        if other and "://" not in other["path"]:
            path = file.parent / other["path"]
            if path not in above:
                yield from _contents(path, above | {path})


def pinned(lock: str) -> dict[str, str]:
    """Return the lines of a lock by the plain name of their package."""
    lines = (line.split(" \\")[0].strip() for line in lock.splitlines())
    return {plain_name(line): line for line in lines if line and not line.startswith(("#", "-"))}


def plain_name(requirement: str) -> str:
    """Return the name that a requirement begins with, in the normal form of package indexes."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def _version(python: str) -> str:
    """Return major and minor version; a patch version is no other environment."""
    if _VERSION.fullmatch(python):
        return python
    if python == sys.executable:
        return f"{sys.version_info.major}.{sys.version_info.minor}"
    import subprocess

    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentUnsolvable(f"interpreter {python!r} can't be run: {error}; give another") from error
    return done.stdout.strip()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _write(path: Path, lock: str) -> None:
    """Write a lock atomically."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(lock)
    os.replace(scratch, path)


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
