"""Errors of connections to hosts: SSH's and the system's errors as Muster's own, each with the host and the remedy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from muster.core.errors import MusterError, RequestError, TargetError
from muster.targets.hosts.shell import ConnectionLost

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")


class HostUnreachable(TargetError):
    """A host is unreachable now; it may answer later."""


class HostBusy(HostUnreachable):
    """A host's sshd hung up before the login, as it does when too many clients log in at once."""


class UnknownHost(RequestError):
    """A host has no address."""


class LoginRefused(RequestError):
    """A host refuses the login."""


@dataclass(frozen=True, kw_only=True)
class HostKeys:
    """The key that a host showed and the expected ones, as ``ssh-ed25519 SHA256:…``; ``source``: where those stand."""

    shown: str = ""
    expected: tuple[str, ...] = ()
    source: str = ""


class BadHosts(Exception):
    """Hosts that can't be used, each with its error."""

    def __init__(self, hosts: dict[str, MusterError]) -> None:
        super().__init__(", ".join(hosts))
        self.hosts = hosts


async def gather_hosts(hosts: Iterable[str], work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await the work on all hosts; return the results in order.

    :raises BadHosts: the work failed on some hosts, all of which are named.
    """
    results = await asyncio.gather(*work, return_exceptions=True)
    bad = {host: result for host, result in zip(hosts, results, strict=True) if isinstance(result, MusterError)}
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, MusterError):
            raise result
    if bad:
        raise BadHosts(bad)
    return [result for result in results if not isinstance(result, BaseException)]


def error_for(error: Exception, machine: str, user: str, keys: HostKeys) -> MusterError:
    """Return the error for a connection to ``machine`` that could not be made."""
    import asyncssh

    if isinstance(error, MusterError):
        return error
    if isinstance(error, asyncssh.HostKeyNotVerifiable) or (keys.expected and "host key algorithm" in str(error)):
        return _untrusted(machine, keys)
    if isinstance(error, asyncssh.PermissionDenied):
        return LoginRefused(
            f"host {machine} refused the login of user {user!r}: {_reason(error)}; put the public key into that user's "
            "authorized_keys there, or correct user, key or password of the connection"
        )
    if isinstance(error, (asyncssh.KeyImportError, asyncssh.KeyEncryptionError)):
        return RequestError(f"the private key for host {machine} can't be used: {_reason(error)}; correct key and passphrase")
    if isinstance(error, asyncssh.Error):
        return _of_protocol(error, machine)
    return _of_system(error, machine)


def connection_lost(reason: object, machine: str) -> ConnectionLost:
    """Return the error for a connection that broke."""
    return ConnectionLost(f"the connection to host {machine} was lost: {_reason(reason)}")


def _untrusted(machine: str, keys: HostKeys) -> RequestError:
    shown = f"it shows {keys.shown}" if keys.shown else "it has no key of a known kind"
    if keys.expected:
        return RequestError(
            f"the host key of {machine} has CHANGED: {keys.source} expects {' or '.join(keys.expected)}, {shown}; nothing was "
            "sent to it. Somebody may be in between. If the host was set up anew, replace the old key there"
        )
    return RequestError(
        f"the host key of {machine} is not known ({shown}); compare it with the host's own, then add it to {keys.source}, or "
        "give it as host_key; host_key_check = false trusts any host"
    )


def _of_protocol(error: asyncssh.Error, machine: str) -> MusterError:
    import asyncssh

    if isinstance(error, asyncssh.ConnectionLost):
        return HostBusy(
            f"host {machine} hung up before the login: {_reason(error)}; it may be starting, or its sshd limits new "
            "connections (MaxStartups)"
        )
    return TargetError(f"host {machine}: {_reason(error)}; look at its sshd's log")


def _of_system(error: Exception, machine: str) -> MusterError:
    if isinstance(error, socket.gaierror):
        return _of_name(error, machine)
    if isinstance(error, ConnectionRefusedError):
        return HostUnreachable(
            f"host {machine} refused the connection: no sshd listens there; start it, or correct host and port"
        )
    if isinstance(error, ConnectionResetError):
        return HostBusy(f"host {machine} reset the connection; its sshd may limit new connections (MaxStartups)")
    if isinstance(error, TimeoutError):
        return HostUnreachable(f"host {machine} did not answer in time; look whether it is up and reachable from here")
    if isinstance(error, OSError):
        return HostUnreachable(
            f"host {machine} can't be reached: {_reason(error)}; look whether it is up and reachable from here"
        )
    return TargetError(f"host {machine}: {type(error).__name__}: {_reason(error)}")


def _of_name(error: socket.gaierror, machine: str) -> MusterError:
    """Return the error for a name that does not exist, or that can't be resolved now."""
    if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
        return UnknownHost(f"host {machine} is unknown: {error.strerror}; correct its name or address in the inventory")
    return HostUnreachable(f"host {machine} can't be looked up now: {error.strerror}; look at the name service of this machine")


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
