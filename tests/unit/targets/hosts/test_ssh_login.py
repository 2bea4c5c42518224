"""What can go wrong on the way to a host, each in one line with the host and what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import asyncssh
import pytest

from muster.core.errors import MusterError, RequestError, TargetError
from muster.targets.hosts import reconnect
from muster.targets.hosts.ssh_errors import (
    HostBusy,
    HostKeys,
    HostUnreachable,
    LoginRefused,
    UnknownHost,
    connection_lost,
    error_for,
)
from muster.targets.hosts.ssh_login import SshLogin

KEYS = HostKeys(shown="ssh-ed25519 SHA256:new", expected=("ssh-ed25519 SHA256:old",), source="~/.ssh/known_hosts")


@pytest.mark.parametrize(
    ("error", "keys", "kind", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), HostKeys(), UnknownHost, "host gpu is unknown: Name or service"),
        (socket.gaierror(-3, "Temporary failure"), HostKeys(), HostUnreachable, "can't be looked up now: Temporary failure"),
        (ConnectionRefusedError(), HostKeys(), HostUnreachable, "no sshd listens there; start it"),
        (TimeoutError(), HostKeys(), HostUnreachable, "did not answer in time"),
        (OSError(113, "No route to host"), HostKeys(), HostUnreachable, "can't be reached: No route to host"),
        (ConnectionResetError(), HostKeys(), HostBusy, "MaxStartups"),
        (asyncssh.ConnectionLost("Connection lost"), HostKeys(), HostBusy, "hung up before the login"),
        (asyncssh.PermissionDenied("no more"), HostKeys(), LoginRefused, "refused the login of user 'me': no more"),
        (
            asyncssh.HostKeyNotVerifiable("x"),
            KEYS,
            RequestError,
            "has CHANGED: ~/.ssh/known_hosts expects ssh-ed25519 SHA256:old",
        ),
        (asyncssh.HostKeyNotVerifiable("x"), HostKeys(source="f"), RequestError, "is not known .* add it to f"),
        (asyncssh.KeyExchangeFailed("no matching host key algorithm"), KEYS, RequestError, "has CHANGED"),
        (asyncssh.KeyImportError("bad"), HostKeys(), RequestError, "private key for host gpu can't be used: bad"),
        (asyncssh.ProtocolError("odd"), HostKeys(), TargetError, "host gpu: odd; look at its sshd's log"),
        (ValueError("odd"), HostKeys(), TargetError, "host gpu: ValueError: odd"),
    ],
)
def test_every_error_names_the_host_and_says_what_to_do(
    error: Exception, keys: HostKeys, kind: type[MusterError], words: str
) -> None:
    meant = error_for(error, "gpu", "me", keys)
    assert type(meant) is kind
    with pytest.raises(kind, match=words):
        raise meant
    assert "\n" not in str(meant)


def test_our_own_errors_stay_what_they_are_and_a_loss_is_named() -> None:
    ours = RequestError("ours")
    assert error_for(ours, "gpu", "me", HostKeys()) is ours
    assert str(connection_lost(OSError(104, "Connection reset by peer"), "gpu")).startswith(
        "the connection to host gpu was lost: Connection"
    )


def test_fields_become_a_login_and_what_can_not_be_is_refused() -> None:
    login = SshLogin.from_fields({"host": "h", "port": "2222", "user": "me", "other": "left alone"}, name="gpu")
    assert (login.port, login.user, login.machine, login.host_key_check) == (2222, "me", "gpu (h:2222)", True)
    assert SshLogin.from_fields({"host": "h"}).machine == "h"
    for fields, words in (({}, "has no address"), ({"host": "h", "port": "0"}, "port = 0 is not a port")):
        with pytest.raises(RequestError, match=words):
            SshLogin.from_fields(fields, name="gpu")


async def test_keys_that_can_not_be_used_are_named_before_anything_is_sent(tmp_path: Path) -> None:
    for fields, words in (
        ({"private_key": "not a key"}, "the private key for host h can't be used"),
        ({"key_file": str(tmp_path / "none")}, "the private key .*none for host h can't be read"),
        ({"known_hosts_file": str(tmp_path / "none")}, "which has the key of host h, can't be read"),
    ):
        with pytest.raises(RequestError, match=words):
            await SshLogin.from_fields({"host": "h", **fields}).open()


@pytest.mark.parametrize("joined_by", ["\n", "", " "])
def test_a_private_key_may_have_lost_its_line_ends_in_a_form(joined_by: str) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    text = joined_by.join(key.export_private_key().decode().splitlines())
    login = SshLogin.from_fields({"host": "h", "private_key": text})
    assert asyncssh.import_private_key(login.private_key).public_data == key.public_data


async def test_what_is_wrong_only_since_a_while_is_away_and_no_wrong_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(error: MusterError | None = None) -> str:
        if error is not None:
            raise error
        return "shell"

    wrong = (UnknownHost("no such host"), LoginRefused("wrong key"))
    entry = reconnect.ReconnectPolicy()
    for error in wrong:
        with pytest.raises(type(error)):
            await entry.login(opened(error))
    assert await entry.login(opened()) == "shell"
    for error in wrong:
        with pytest.raises(HostUnreachable, match=str(error)):
            await entry.login(opened(error))
    monkeypatch.setattr(reconnect, "REFUSAL_TIME", -1.0)
    with pytest.raises(HostUnreachable, match="no such host"):
        await entry.login(opened(wrong[0]))
    with pytest.raises(LoginRefused):
        await entry.login(opened(wrong[1]))
