"""A login on a host over SSH from plain fields; host keys are verified unless the user forbids it."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import RequestError
from muster.targets.hosts.options import LOGIN
from muster.targets.hosts.ssh_errors import HostBusy, HostKeys, error_for
from muster.targets.hosts.ssh_shell import SshShell
from muster.targets.options import Kind, parse_options

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIME = 20.0  # seconds for connection and login
KEEPALIVE = 10.0  # seconds between two signs of life of the connection
KEEPALIVES_MISSED = 3  # in a row, after which it counts as lost
TRIES, FIRST_DELAY = 5, 0.3  # logins where sshd hangs up at once, and seconds between the first two
DEFAULT_KNOWN_HOSTS = "~/.ssh/known_hosts"
_KEY_ON_ONE_LINE = re.compile(r"(-----BEGIN [A-Z ]+-----)([A-Za-z0-9+/= ]+)(-----END [A-Z ]+-----)")


@dataclass(frozen=True, kw_only=True)
class SshLogin:
    """One user on one host. ``private_key``: the key's text. ``known_hosts``: lines as of that file; they and ``host_key``
    (``ssh-ed25519 AAAA…``) come before ``known_hosts_file``, whose default is the user's own. Empty key and password: what
    the user's agent and ``~/.ssh`` have.
    """

    host: str
    port: int = 22
    user: str = ""
    name: str = ""
    private_key: str = field(default="", repr=False)
    key_file: str = ""
    passphrase: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    known_hosts: str = field(default="", repr=False)
    known_hosts_file: str = ""
    host_key: str = field(default="", repr=False)
    host_key_check: bool = True

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, name: str = "") -> SshLogin:
        """Return a login of plain fields; others are ignored.

        :raises RequestError: the host is missing, or a value is not of its option's kind.
        """
        host = str(fields.get("host") or "").strip()
        if not host:
            raise RequestError(f"host {name!r} has no address; give its host")
        values = parse_options(
            (option for option in LOGIN if option.kind is not Kind.CONNECTION), fields, f"host {name or host!r}:"
        )
        if not 0 < values.get("port", 22) < 65536:
            raise RequestError(f"host {name or host!r}: port = {values['port']} is not a port; give a number from 1 to 65535")
        values["private_key"] = restore_lines(values.get("private_key", ""))
        return cls(host=host, name=name or host, **values)

    @property
    def machine(self) -> str:
        """Return the host's name and address for messages."""
        address = self.host if self.port == 22 else f"{self.host}:{self.port}"
        return self.name if self.name in ("", self.host) and self.port == 22 else f"{self.name or self.host} ({address})"

    async def open(self) -> SshShell:
        """Connect and log in.

        :raises RequestError: the host is unknown, its key is not the expected one, or it refuses the login.
        :raises TargetError: it can't be reached now.
        """
        delay = FIRST_DELAY
        for _ in range(TRIES - 1):
            try:
                return await self._open()
            except HostBusy:  # many log in at once, and sshd drops some by chance
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay *= 2
        return await self._open()

    async def _open(self) -> SshShell:
        import asyncssh

        _quieten()
        shown: list[str] = []
        try:
            known = self._known()
            async with asyncio.timeout(CONNECT_TIME):
                connection = await asyncssh.connect(
                    self.host,
                    self.port,
                    **self._who(),
                    known_hosts=known,
                    client_factory=lambda: _witness(shown),
                    keepalive_interval=KEEPALIVE,
                    keepalive_count_max=KEEPALIVES_MISSED,
                    login_timeout=CONNECT_TIME,
                )
        except Exception as error:
            raise error_for(error, self.machine, self.user, self._keys("".join(shown[-1:]))) from error
        return SshShell(connection, self.machine)

    def _who(self) -> dict[str, Any]:
        """Return user and credentials as asyncssh's arguments."""
        import asyncssh

        who: dict[str, Any] = {"username": self.user} if self.user else {}
        if self.password:
            who["password"] = self.password
        if self.private_key:
            who["client_keys"] = [asyncssh.import_private_key(self.private_key, self.passphrase or None)]
        elif self.key_file:
            try:
                who["client_keys"] = [asyncssh.read_private_key(Path(self.key_file).expanduser(), self.passphrase or None)]
            except OSError as error:
                raise RequestError(f"the private key {self.key_file} for host {self.machine} can't be read: {error}") from error
        return {**who, "agent_path": None} if who.get("client_keys") else who

    # -- host keys

    @property
    def _source(self) -> str:
        if self.host_key:
            return "the connection's host_key"
        return "the connection's known_hosts" if self.known_hosts else self.known_hosts_file or DEFAULT_KNOWN_HOSTS

    def _known(self) -> asyncssh.SSHKnownHosts | None:
        """Return the trusted host keys; None where any key is trusted.

        :raises RequestError: they can't be read.
        """
        import asyncssh

        if not self.host_key_check:
            return None
        try:
            if self.host_key or self.known_hosts:
                return asyncssh.import_known_hosts(self._lines())
            file = Path(self.known_hosts_file or DEFAULT_KNOWN_HOSTS).expanduser()
            if not file.exists() and not self.known_hosts_file:
                return asyncssh.import_known_hosts("")
            return asyncssh.read_known_hosts(str(file))
        except (OSError, ValueError) as error:
            raise RequestError(f"{self._source}, which has the key of host {self.machine}, can't be read: {error}") from error

    def _lines(self) -> str:
        words = self.host_key.split()
        if not words:
            return self.known_hosts if self.known_hosts.endswith("\n") else self.known_hosts + "\n"
        kind_and_key = words[:2] if len(words) > 1 else ["ssh-rsa", words[0]]
        host = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return " ".join([host, *kind_and_key]) + "\n"

    def _keys(self, shown: str) -> HostKeys:
        import asyncssh

        try:
            known = self._known()
            expected = asyncssh.match_known_hosts(known, self.host, "", self.port)[0] if known else ()
            if not expected and known and self.port != 22:
                expected = asyncssh.match_known_hosts(known, self.host, "", None)[0]
        except (RequestError, ValueError):
            expected = ()
        return HostKeys(shown=shown, expected=tuple(_print_of(key) for key in expected), source=self._source)


def restore_lines(private_key: str) -> str:
    """Return a private key with its line ends, which a form's field for passwords drops."""
    match = _KEY_ON_ONE_LINE.fullmatch(private_key.strip())
    return f"{match[1]}\n{match[2].replace(' ', '')}\n{match[3]}\n" if match else private_key


def _quieten() -> None:
    """Keep asyncssh from logging every command, unless somebody has set its level."""
    logger = logging.getLogger("asyncssh")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


def _witness(shown: list[str]) -> asyncssh.SSHClient:
    """Return a client that records the key of an untrusted host, for the error; it never trusts the key."""
    import asyncssh

    class Witness(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            shown.append(_print_of(key))
            return False

    return Witness()


def _print_of(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"
