"""The sync process of a node: answers the agent's requests over an inherited socket, one JSON object a line."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.node.rpc import Commands
from muster.node.sync_commands import CheckStore, Finish, PutRecord

if TYPE_CHECKING:
    from muster.store.sync.node_sync import NodeSync

START_LATEST = 1.0  # seconds; background work begins after the check, or after this


class Channel:
    """The socket to the agent."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._lines = self._socket.makefile("rb")
        self._lock = threading.Lock()
        self.closed = False

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next message; return None when the agent is gone."""
        try:
            line = self._lines.readline()
        except OSError:
            line = b""
        self.closed = not line.endswith(b"\n")
        return None if self.closed else dict(json.loads(line))

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; it is dropped if the agent is gone."""
        try:
            with self._lock:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass


def main(argv: list[str]) -> int:
    """Run until a ``Finish``, or until the agent is gone; ``argv`` is ``NODE_FOLDER --fd N``."""
    gc.disable()  # loading botocore is what a launch waits for
    folder, fd = Path(argv[0]), int(argv[argv.index("--fd") + 1])
    channel = Channel(fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143) if channel.closed else None)
    try:
        from muster.store.sync.node_sync import NodeSync
    except ImportError as error:
        return _refuse_all(channel, error)
    return serve(channel, NodeSync(folder, lambda text: channel.send({"note": text})))


def serve(channel: Channel, node: NodeSync) -> int:
    """Answer every request in a thread of its own until the agent is gone; return the exit status."""
    timer = threading.Timer(START_LATEST, node.start)
    timer.daemon = True
    timer.start()
    commands = node.commands()
    while (message := channel.receive()) is not None:
        if message["do"] == PutRecord.command:
            commands.call(message)
        else:
            threading.Thread(target=_answer, args=(channel, node, commands, message), daemon=True).start()
    node.farewell()
    _exit()
    return 0


def _answer(channel: Channel, node: NodeSync, commands: Commands, message: dict[str, Any]) -> None:
    channel.send({"id": message["id"], **commands.answer(message)})
    if message["do"] == CheckStore.command:
        node.start()
    if message["do"] == Finish.command:
        _exit()


def _refuse_all(channel: Channel, error: ImportError) -> int:
    text = f"{sys.executable} has no client of the store: {error}; install boto3 for it"
    while (message := channel.receive()) is not None:
        if message["do"] != PutRecord.command:
            channel.send({"id": message["id"], "error": text})
        if message["do"] == Finish.command:
            break
    return 1


def _exit() -> None:
    """Exit at once: a request that hangs in another thread must not keep the process."""
    sys.stderr.flush()
    os._exit(0)
