"""Lock: packages as asked for, resolved to exact versions by uv; the same request is resolved once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from muster.core.codec import digest
from muster.core.errors import EnvironmentUnsolvable
from muster.core.plan import EnvironmentRef
from muster.packaging.pip_settings import PipSettings, pip_settings, uv_environment

RESOLVE_LIMIT = 900.0  # seconds


def resolve(packages: tuple[str, ...], *, python: str, cache: Path, log: Callable[[str], None]) -> EnvironmentRef:
    """Give the environment of some requirement lines for the Python at ``python``.

    :raises EnvironmentUnsolvable: the resolver found no solution; the message has its own reason.
    """
    settings = pip_settings(os.environ)
    request = [sorted(packages), _version_of(python), settings.arguments(), os.environ.get("UV_FIND_LINKS", "")]
    memory = cache / "locks" / f"{hashlib.sha256(json.dumps(request).encode()).hexdigest()}.txt"
    if not memory.exists():
        _remember(memory, _compile(packages, python, settings, log))
    lock = memory.read_text(encoding="utf-8")
    return EnvironmentRef(digest=digest([lock, _version_of(python)]), lock=lock, python=_version_of(python))


def _version_of(python: str) -> str:
    """Give ``3.11`` of the interpreter that runs Muster; environments are made for the same one."""
    import sys

    if python != sys.executable:
        return python
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _compile(packages: tuple[str, ...], python: str, settings: PipSettings, log: Callable[[str], None]) -> str:
    log(f"resolving {', '.join(packages)}")
    argv = [uv(), "pip", "compile", "-", "--quiet", "--no-header", "--no-annotate", "--python", python, *settings.arguments()]
    done = subprocess.run(
        argv,
        input="\n".join(packages) + "\n",
        capture_output=True,
        text=True,
        timeout=RESOLVE_LIMIT,
        check=False,
        env=uv_environment(settings),
    )
    if done.returncode != 0:
        raise EnvironmentUnsolvable(f"the packages don't resolve: {reason(done.stderr)}")
    lock = "\n".join(line for line in done.stdout.splitlines() if line and not line.startswith(("#", "-"))) + "\n"
    log(f"resolved to {', '.join(lock.split())}")
    return lock


def _remember(memory: Path, lock: str) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    scratch = memory.with_name(f".{memory.name}.{os.getpid()}")
    scratch.write_text(lock, encoding="utf-8")
    os.replace(scratch, memory)


def reason(stderr: str) -> str:
    """Give what uv said, as one line without its drawing characters."""
    words = stderr.translate(dict.fromkeys(map(ord, "\u00d7╰▶─│├└"), " ")).split()
    return " ".join(words) or "uv gave no reason"


def uv() -> str:
    """Give the path of uv's program."""
    from uv import find_uv_bin

    return str(find_uv_bin())
