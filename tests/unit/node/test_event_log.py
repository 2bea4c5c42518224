"""The event log keeps room for its last words on a disk that others fill."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from muster.node.event_log import RESERVE, EventLog


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def fill(path: Path) -> None:
    """Write until the disk takes no more."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


def test_readers_see_only_what_was_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", 0)
    for number in range(3 * RESERVE // 1000):
        log.add("line", text=f"{number} {'x' * 1000}")
    assert [text.split()[0] for text in texts(tmp_path / "events.jsonl")] == [str(n) for n in range(3 * RESERVE // 1000)]


def test_an_error_that_is_no_full_disk_is_raised(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", 0)
    with pytest.raises(OSError, match="Input/output"):
        log.report_full(OSError(errno.EIO, os.strerror(errno.EIO)))


def test_a_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl", 0)
    log.add("line", text="first")
    write, room = os.write, [30]

    def short_write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        size, room[0] = room[0], 0
        return write(fd, data[:size])

    monkeypatch.setattr(os, "write", short_write)
    log.add("line", text="cut off")
    log.add("line", text="dropped")
    monkeypatch.undo()
    log.add("line", text="next")
    log.add("line", text="last")
    first, half, *others = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(half) == 30
    assert [json.loads(line)["text"] for line in (first, *others)] == ["first", "next", "last"]


def test_a_line_that_an_agent_before_left_half_takes_no_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"t": 1, "k": "li')
    EventLog(tmp_path / "events.jsonl", 0).add("line", text="next")
    half, after = (tmp_path / "events.jsonl").read_text().splitlines()
    assert (half, json.loads(after)["text"]) == ('{"t": 1, "k": "li', "next")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is a tmpfs, which only root can mount")
def test_the_reserve_is_the_logs_own_on_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * RESERVE}", "muster-tests", disk], check=True)
    try:
        told: list[str] = []
        log = EventLog(disk / "events.jsonl", 0)
        log.on_full = told.append
        log.add("line", text="first")
        fill(disk / "model.bin")
        number = 0
        while not told:
            number += 1
            log.add("line", text=f"{number} {'x' * 1000}")
        assert number * 1100 >= RESERVE / 2, "the half of it is left for the end"
        assert told == ["No space left on device"]
        for word in range(100):
            log.add("line", text=f"last words {word}")
        assert texts(disk / "events.jsonl")[-100:] == [f"last words {word}" for word in range(100)]
        assert told == ["No space left on device"], "it is said once"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
