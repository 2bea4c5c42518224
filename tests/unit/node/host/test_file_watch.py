"""Changes wakes when the file grows, at once where the kernel tells, and by looking again where it does not."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from muster.node.host import file_watch
from muster.node.host.file_watch import FileWatch

LONG = 200.0


def grow(file: Path) -> None:
    with file.open("a") as log:
        log.write("more\n")


def test_it_wakes_when_the_file_grows(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()
    watched = FileWatch(file)
    writer = threading.Timer(0.05, grow, [file])
    began = time.monotonic()
    writer.start()
    assert watched.wait([], LONG) == []
    writer.join()
    assert file.read_text() == "more\n"
    assert time.monotonic() - began < LONG


def test_growth_before_the_wait_is_not_missed(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()
    watched = FileWatch(file)
    grow(file)
    began = time.monotonic()
    watched.wait([], LONG)
    assert time.monotonic() - began < LONG


def test_it_gives_the_others_that_are_readable(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    readable, writable = os.pipe()
    os.write(writable, b"!")
    assert FileWatch(tmp_path / "log").wait([readable], LONG) == [readable]
    os.close(readable)
    os.close(writable)


def test_without_the_kernels_help_it_looks_again_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "_watched", lambda file: -1)
    watched, waits = FileWatch(tmp_path / "log"), []
    for _ in range(4):
        began = time.monotonic()
        watched.wait([], LONG)
        waits.append(time.monotonic() - began)
    assert max(waits) < LONG
    assert watched._backoff.next() > file_watch.POLL_FASTEST
    watched.reset()
    assert watched._backoff.next() == file_watch.POLL_FASTEST
