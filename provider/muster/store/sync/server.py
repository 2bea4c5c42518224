"""The sync process of a node: takes the agent's requests, a JSON object a line, over an inherited socket, and answers them."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster.core.errors import StoreError

if TYPE_CHECKING:
    from muster.store.sync.node_sync import NodeSync

BEGIN_LATEST = 1.0  # seconds; background work begins after the check, or after this


class Channel:
    """Our end of the socket to the agent."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._lines = self._socket.makefile("rb")
        self._lock = threading.Lock()
        self.closed = False

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next message; None when the agent is gone."""
        try:
            line = self._lines.readline()
        except OSError:
            line = b""
        self.closed = not line.endswith(b"\n")
        return None if self.closed else dict(json.loads(line))

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the agent something; nothing if it is gone."""
        try:
            with self._lock:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass


def main(argv: list[str]) -> int:
    """Run until told to finish, or until the agent is gone; ``argv`` is ``NODE_FOLDER --fd N``."""
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
    """Answer every message in a thread of its own; gives the exit status."""
    timer = threading.Timer(BEGIN_LATEST, node.begin)
    timer.daemon = True
    timer.start()
    while (message := channel.receive()) is not None:
        if message["do"] == "record":
            node.record(message["record"])
        else:
            threading.Thread(target=_answer, args=(channel, node, message), daemon=True).start()
    node.farewell()
    _leave()
    return 0


def _answer(channel: Channel, node: NodeSync, message: dict[str, Any]) -> None:
    do = str(message.pop("do"))
    try:
        reply = {"ok": True, **getattr(node, f"do_{do}")(**message)}
    except StoreError as error:
        reply = {"ok": False, "error": str(error)}
    except Exception as error:
        traceback.print_exc()
        reply = {"ok": False, "error": f"the sync process failed at {do!r}: {type(error).__name__}: {error}"}
    channel.send({"re": do, **reply})
    if do == "check":
        node.begin()
    if do == "finish":
        _leave()


def _refuse_all(channel: Channel, error: ImportError) -> int:
    text = f"{sys.executable} can't speak with the store: {error}; install boto3 for it"
    while (message := channel.receive()) is not None:
        if message["do"] != "record":
            channel.send({"re": message["do"], "ok": False, "error": text})
        if message["do"] == "finish":
            break
    return 1


def _leave() -> None:
    """End at once: a request that hangs in another thread must not hold the process."""
    sys.stderr.flush()
    os._exit(0)
