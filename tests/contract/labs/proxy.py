"""Proxy: a wire between a client here and a server's socket, which can be cut and mended."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """Listens on loopback and carries bytes to the server and back; ``refused`` counts those who came while it was cut."""

    server: str | tuple[str, int]  # a Unix socket, or an address and port
    refused: int = 0
    _cut: bool = False
    _ends: set[socket.socket] = field(default_factory=set)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @classmethod
    @contextlib.contextmanager
    def to(cls, server: str, port: int = 0) -> Iterator[Proxy]:
        """Carry to a server's Unix socket, or to an address and port, until the end of the block."""
        proxy = cls((server, port) if port else server)
        threading.Thread(target=proxy._accept, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy._listener.shutdown(socket.SHUT_RDWR)
            proxy._listener.close()
            proxy.cut()

    @property
    def port(self) -> int:
        """Where clients find it, on loopback."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"tcp://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection, and every new one at once."""
        self._cut, self.refused = True, 0
        for end in list(self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Accept new connections again."""
        self._cut = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                self.refused += 1
                client.close()
            else:
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX if isinstance(self.server, str) else socket.AF_INET, socket.SOCK_STREAM)
        server.connect(self.server)
        self._ends |= {client, server}
        threading.Thread(target=self._carry_both_ways, args=(client, server), daemon=True).start()

    def _carry_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=_carry, args=(server, client), daemon=True)
        back.start()
        _carry(client, server)
        back.join()
        self._ends -= {client, server}
        client.close()
        server.close()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until the source has no more, and say so to the sink."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
