"""Inspects a host, and installs files there, before any job runs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from muster.core.errors import RequestError, TargetError
from muster.targets.hosts.shell import CommandResult, Shell, send

PIECE = 1 << 20
INSPECT_TIMEOUT = 60.0  # seconds for a host to report what it has
DEFAULT_PYTHON = "python3"
TOO_OLD = 3


@dataclass(frozen=True, kw_only=True)
class HostInfo:
    """Facts that a host reports. ``root`` and ``python`` are absolute paths; ``version`` as ``3.11``; ``glibc`` the minor
    version, 0 for another C library; ``boot`` the id of this boot; ``have`` those of the requested names that exist.
    """

    root: str
    python: str
    version: str
    machine: str
    glibc: int
    boot: str
    have: tuple[str, ...] = ()


async def inspect_host(shell: Shell, root: str, python: str, *names: str) -> HostInfo:
    """Ask a host for its info, and which of the names below ``root`` exist.

    :raises RequestError: it has no usable Python, or ``root`` can't be written.
    """
    done = await shell.run(_argv(python, "report", root, *names), limit=INSPECT_TIMEOUT)
    if done.code:
        raise refusal(done, shell.machine, f"looking for what is below {root}", python)
    data = answer_of(done, shell.machine)
    return HostInfo(**{**data, "have": tuple(data["have"])})


def answer_of(done: CommandResult, machine: str) -> dict[str, Any]:
    """Return the JSON that a command of ours printed in its last line.

    :raises TargetError: the line is no JSON.
    """
    try:
        data: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    except (ValueError, IndexError):
        message = " ".join(done.out.decode(errors="replace").split())[:200]
        raise TargetError(
            f"host {machine} answered {message!r} where JSON was expected; its login files must print nothing"
        ) from None
    return data


async def send_archive(
    shell: Shell, python: str, root: str, name: str, pieces: Iterable[bytes], *, compiled: bool = False
) -> None:
    """Unpack a tar into the new folder ``name``."""
    argv = _argv(python, "unpack", root, name, *(["compile"] if compiled else []))
    _check(await send(shell, argv, pieces), shell.machine, f"putting {name} into place", python)


async def send_file(  # noqa: PLR0917
    shell: Shell, python: str, root: str, name: str, size: int, content: Iterable[bytes] | AsyncIterable[bytes]
) -> None:
    """Send a file of ``size`` bytes to ``name``; a file that arrives incomplete is discarded."""
    _check(await send(shell, _argv(python, "store", root, name, str(size)), content), shell.machine, f"sending {name}", python)


async def write_files(shell: Shell, folder: str, files: Mapping[str, tuple[bytes, int]], python: str = DEFAULT_PYTHON) -> None:
    """Write files, each with its mode, below a folder of the host, in one command; folders between have mode 0700."""
    argv = _argv(python, "write", folder)
    _check(await shell.run(argv, stdin=tar_of(files), limit=300.0), shell.machine, f"writing files below {folder}", python)


def tar_of(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Return the tar of files, each content with its mode."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, (content, mode) in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def files_of(packed: bytes) -> dict[str, tuple[bytes, int]]:
    """Return the files of a tar, each content with its mode."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                files[member.name.removeprefix("./")] = (content.read(), member.mode)
    return files


def pieces_of(file: Path) -> Iterator[bytes]:
    """Yield a file's content in pieces."""
    with file.open("rb") as content:
        while piece := content.read(PIECE):
            yield piece


def refusal(done: CommandResult, machine: str, what: str, python: str) -> TargetError | RequestError:
    """Return the error for a command of ours that failed on a host."""
    message = done.message
    if done.code in (126, 127):
        return RequestError(
            f"host {machine} can't run {python!r} ({message}); install Python 3.10 or newer there, or correct python"
        )
    if done.code == TOO_OLD and "too old" in message:
        return RequestError(f"host {machine}: {message}; install a newer one there, and name it by python")
    if "No space left" in message or "quota exceeded" in message.lower():
        return TargetError(f"{what} on host {machine} failed: its disk is full ({message}); free some")
    if "Permission denied" in message or "Read-only file system" in message:
        return RequestError(f"{what} on host {machine} failed: {message}; let the user write there, or choose another root")
    return TargetError(f"{what} on host {machine} failed (exit {done.code}): {message or 'it did not say why'}")


def _check(done: CommandResult, machine: str, what: str, python: str) -> None:
    if done.code:
        raise refusal(done, machine, what, python)


def _argv(python: str, *arguments: str) -> list[str]:
    return [python, "-I", "-S", "-c", _program(), *arguments]


@cache
def _program() -> str:
    return Path(__file__).with_name("bootstrap.py").read_text(encoding="utf-8")
