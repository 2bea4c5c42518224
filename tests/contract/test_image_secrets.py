"""What is secret on the worker stays there: a package index with a password leaves no trace in an image."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from packages import make_wheel
from workshop import Workshop, unique

USER, PASSWORD = "reader", "pass-of-the-index"


class Guarded(SimpleHTTPRequestHandler):
    """Files for those who say user and password."""

    def do_GET(self) -> None:
        expected = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder of a package index behind a password, and its URL with both."""
    folder = tmp_path / "index"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://{USER}:{PASSWORD}@127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_index_with_a_password_leaves_no_trace(
    workshop: Workshop, index: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = index
    name = unique()
    (folder / name).mkdir()
    make_wheel(folder / name, name, "1.0")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    built = workshop.ensure(workshop.resolve(name))
    assert workshop.says(built, f"import {name}; print({name}.VERSION)") == "1.0"
    api = workshop.engine.api
    told = json.dumps([api.inspect_image(built), api.history(built), workshop.log])
    assert PASSWORD not in told
    assert not found_in_layers(workshop, built, PASSWORD.encode())
    assert found_in_layers(workshop, built, f"Name: {name}".encode()), "the search finds what is there"


def found_in_layers(workshop: Workshop, image: str, text: bytes) -> bool:
    """Look through every byte of every layer."""
    tail = b""
    for chunk in workshop.engine.images.get(image).save():
        if text in tail + chunk:
            return True
        tail = chunk[-len(text) :]
    return False
