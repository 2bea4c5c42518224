"""Errors of a Docker engine as Muster's own, each in one line with the reason and what to do."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from muster.core.errors import MusterError, RequestError, TargetError


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """``pattern`` in the engine's words means ``text``, in which ``{0}`` is what the pattern's group found."""

    pattern: str
    text: str
    kind: type[MusterError] = RequestError


MEANINGS = (
    Meaning(
        pattern=r"could not select device driver|unknown or invalid runtime name: nvidia|nvidia-container-cli: ([^\n\"]*)",
        text="GPUs were asked for, but the engine has no GPU runtime that can give them; install the NVIDIA container toolkit "
        "on its machine, or leave out use_gpu and resources_per_node.gpus",
    ),
    Meaning(
        pattern=r"no space left on device",
        text="the engine's disk is full (no space left on device); free some, for example by `docker system prune`",
        kind=TargetError,
    ),
    Meaning(
        pattern=r"bind source path does not exist: ([^\n\"]+)",
        text="mounts: there is no {0} on the engine's machine; mounts name folders of that machine, not of the submitter's",
    ),
    Meaning(
        pattern=r"network (\S+) not found",
        text="there is no network {0} on the engine; make it by `docker network create`, or correct the target's networks",
    ),
    Meaning(
        pattern=r"unable to find (?:user|group) ([^\s:]+)",
        text="the image has no user or group {0}; give --user in docker_arguments as numbers, such as 1000:1000",
    ),
    Meaning(
        pattern=r"(?i)minimum memory limit allowed is ([^\s\"]+)",
        text="resources_per_node.memory is too small for a container: the engine wants at least {0}",
    ),
    Meaning(pattern=r"(?i)(range of CPUs is from [^\"\n]+)", text="resources_per_node.cpus does not fit the engine: {0}"),
    Meaning(
        pattern=r"(?i)no such image: ([^\s\"]+)", text="image {0} is not on the engine; pull it there, or correct its name"
    ),
    Meaning(
        pattern=r"exec: \\?\"(\S+?)\\?\": (?:executable file not found|stat)",
        text="the image has no program {0}; Muster needs Python 3.10 or newer in it, as python3 on its PATH",
    ),
    Meaning(
        pattern=r"error setting rlimit type (\d+)",
        text="the engine's machine does not allow one of the limits of --ulimit (rlimit {0}); leave it out or lower it",
    ),
    Meaning(
        pattern=r"((?:invalid CapAdd|invalid CapDrop|invalid --security-opt|error gathering device information|invalid IPC mode"
        r"|(?i:unknown or invalid runtime|unknown runtime specified)|invalid tmpfs|sysctl)[^\n]*)",
        text="docker_arguments: the engine refused: {0}",
    ),
    Meaning(
        pattern=r"non-overlapping IPv4 address pool",
        text="the engine has no address range left for another network; remove unused ones (`docker network prune`), or give "
        "it more (default-address-pools in its daemon.json)",
        kind=TargetError,
    ),
)


def meaning_of(words: str, what: str, engine_url: str) -> MusterError:
    """Return the error for an engine's message (``words``) to the request ``what``."""
    for meaning in MEANINGS:
        found = re.search(meaning.pattern, words)
        if found:
            group = next(filter(None, found.groups()), "") if found.groups() else ""
            return meaning.kind(f"{what} on {engine_url}: {meaning.text.format(group.strip())}")
    return TargetError(f"{what} on {engine_url} failed: {_one_line(words)}")


class EngineUnreachable(TargetError):
    """The engine does not answer."""


def unreachable(reason: object, engine_url: str) -> EngineUnreachable:
    """Return the error for an engine that does not answer."""
    return EngineUnreachable(
        f"the docker engine at {engine_url} can't be reached: {_reason(str(reason))}; start it, or correct the target's url "
        "and TLS files"
    )


@contextlib.contextmanager
def explained(what: str, engine_url: str) -> Iterator[None]:
    """Raise the errors of engine and SDK as Muster's own."""
    import docker.errors

    try:
        yield
    except docker.errors.APIError as error:
        raise meaning_of(str(error.explanation or error), what, engine_url) from error
    except connection_errors() as error:
        raise unreachable(error, engine_url) from error
    except OSError as error:
        raise _of_this_machine(error, what) from error


def connection_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the errors of an unreachable engine, and ``others``."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    paramiko = sys.modules.get("paramiko")  # it is there where an engine is reached by it
    ssh = (paramiko.SSHException, EOFError) if paramiko else ()
    http = (docker.errors.DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError)
    return *http, ConnectionError, TimeoutError, *ssh, *others


def _of_this_machine(error: OSError, what: str) -> TargetError:
    """Return the error for what failed here and not on the engine, such as a disk that is full."""
    reason = ": ".join(filter(None, (error.strerror or str(error), str(error.filename or ""))))
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "make room there" if full else "correct that there"
    return TargetError(f"{what} failed on the machine that asks the engine, {socket.gethostname()}: {reason}; {remedy}")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]


def _reason(text: str) -> str:
    """Return the innermost reason of the SDK's nested texts."""
    inner = re.findall(r"(?:PermissionError|FileNotFoundError|ConnectionRefusedError|gaierror)\((?:-?\d+, )?'([^']+)'\)", text)
    return inner[-1] if inner else _one_line(text.removeprefix("Error while fetching server API version: "))
