"""The hub: one process pushes the logs of many node folders, in whole lines, and says when nothing of a node is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.node import processes
from muster.node.host import liveness
from muster.node.host.log_stream import READ_SIZE, LogFile, LogPart, LogSchedule, WatchedLog
from store_server import wait_until

JOB = f"none-{os.getpid()}"  # of this worker alone: what carries its marker is ended
START = Path(__file__).parents[4] / "provider" / "muster" / "node" / "start.py"


class LogStreamer:
    """A running hub, and what it has said."""

    def __init__(self) -> None:
        argv = [sys.executable, "-I", "-S", str(START), "log-stream"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.logs: dict[Any, bytes] = {}
        self.endings: dict[Any, dict[str, Any]] = {}
        self.beats = 0

    def send(self, **request: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")

    def read(self) -> None:
        """Read one frame."""
        out = self.process.stdout
        assert out is not None
        line = b""
        while not line.endswith(b"\n"):
            line += out.read(1) or b""
        head = json.loads(line)
        if "beat" in head:
            self.beats += 1
        elif "bytes" in head:
            data = b""
            while len(data) < head["bytes"]:
                data += out.read(head["bytes"] - len(data)) or b""
            assert data.endswith(b"\n"), "only whole lines are pushed"
            self.logs[head["key"]] = self.logs.get(head["key"], b"") + data
        else:
            self.endings[head["key"]] = head

    def until(self, condition: Any, limit: float = 120.0) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline
            self.read()


@pytest.fixture
def streamer() -> Iterator[LogStreamer]:
    streamer = LogStreamer()
    yield streamer
    assert streamer.process.stdin is not None
    streamer.process.stdin.close()
    assert streamer.process.wait(timeout=60) == 0, "a hub ends with its input"


def node(folder: Path, pid: int = 0, text: str = "") -> Path:
    """Lay out a node folder whose guardian is a process; by default, this one."""
    folder.mkdir(parents=True)
    pid = pid or os.getpid()
    born = {"pid": pid, "start": processes.start_time(pid)}
    (folder / "guardian.json").write_text(json.dumps(born))
    (folder / "assignment.json").write_text(json.dumps({"job_id": JOB, "generation": 1, "attempt": 1}))
    (folder / "events.jsonl").write_text(text)
    return folder


def test_logs_are_pushed_as_they_grow_from_where_the_reader_was(streamer: LogStreamer, tmp_path: Path) -> None:
    one, two = node(tmp_path / "one", text="a\nb\n"), node(tmp_path / "two", text="x\n")
    streamer.send(do="watch", key=1, folder=str(one), offset=2)
    streamer.send(do="watch", key="two", folder=str(two), offset=0)
    streamer.until(lambda: streamer.logs == {1: b"b\n", "two": b"x\n"})
    with (one / "events.jsonl").open("a") as log:
        log.write("c\nhalf")
        log.flush()
        streamer.until(lambda: streamer.logs[1] == b"b\nc\n")
        log.write(" done\n")
    streamer.until(lambda: streamer.logs[1] == b"b\nc\nhalf done\n")
    assert streamer.endings == {}


def test_a_node_is_silent_once_its_last_word_is_read_and_its_guardian_left(streamer: LogStreamer, tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    folder = node(tmp_path / "n", pid=sleeper.pid, text="{}\n")
    streamer.send(do="watch", key=1, folder=str(folder), offset=0)
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"t": 1, "k": "node_end", "n": 0}\n')
    streamer.until(lambda: b"node_end" in streamer.logs.get(1, b""))
    assert streamer.endings == {}
    sleeper.kill()
    sleeper.wait()
    streamer.until(lambda: 1 in streamer.endings)
    assert streamer.endings[1] == {"key": 1, "silent": True, "orderly": True, "rebooted": False}


def test_a_node_that_was_killed_is_read_to_its_end_and_its_ranks_are_ended(streamer: LogStreamer, tmp_path: Path) -> None:
    marked = {**os.environ, "MUSTER_JOB": f"{JOB}/g1/a1"}
    guardian = subprocess.Popen(["sleep", "600"])
    rank = subprocess.Popen(["sleep", "600"], env=marked)
    folder = node(tmp_path / "n", pid=guardian.pid, text="last\n")
    guardian.kill()
    guardian.wait()
    streamer.send(do="watch", key=1, folder=str(folder), offset=0)
    wait_until(lambda: rank.poll() is not None, what="the rank is ended")
    streamer.until(lambda: 1 in streamer.endings)
    assert streamer.logs[1] == b"last\n"
    assert not streamer.endings[1]["orderly"]


def test_what_somebody_starts_again_is_not_ended(streamer: LogStreamer, tmp_path: Path) -> None:
    rank = subprocess.Popen(["sleep", "600"], env={**os.environ, "MUSTER_JOB": f"{JOB}/g1/a1"})
    folder, other = node(tmp_path / "n"), node(tmp_path / "o", text="x\n")
    born = (folder / "guardian.json").read_text()
    (folder / "guardian.json").write_text(json.dumps({"pid": rank.pid, "start": 1}))
    with liveness.locked_folder(str(folder), wait=True):
        streamer.send(do="watch", key=1, folder=str(folder), offset=0)
        streamer.send(do="watch", key=2, folder=str(other), offset=0)
        streamer.until(lambda: 2 in streamer.logs)
        (folder / "guardian.json").write_text(born)
    (folder / "events.jsonl").write_text("back\n")
    streamer.until(lambda: streamer.logs.get(1) == b"back\n")
    assert streamer.endings == {}
    assert rank.poll() is None
    rank.kill()
    rank.wait()


def test_a_reboot_is_told(streamer: LogStreamer, tmp_path: Path) -> None:
    folder = node(tmp_path / "n")
    (folder / liveness.BOOT).write_text("another boot")
    streamer.send(do="watch", key=1, folder=str(folder), offset=0)
    streamer.until(lambda: 1 in streamer.endings)
    assert streamer.endings[1]["rebooted"]


def test_a_folder_that_is_not_there_is_silent(streamer: LogStreamer, tmp_path: Path) -> None:
    streamer.send(do="watch", key=1, folder=str(tmp_path / "none"), offset=0)
    streamer.until(lambda: 1 in streamer.endings)


def test_one_whose_life_is_known_outside_is_silent_when_that_is_said(streamer: LogStreamer, tmp_path: Path) -> None:
    folder = tmp_path / "n"
    folder.mkdir()
    streamer.send(do="watch", key=1, folder=str(folder), offset=0, outside=True)
    (folder / "events.jsonl").write_text("late\n")
    streamer.until(lambda: streamer.logs.get(1) == b"late\n")
    assert streamer.endings == {}
    streamer.send(do="over", key=1)
    streamer.until(lambda: 1 in streamer.endings)


def test_a_quiet_one_tells_only_its_end(streamer: LogStreamer, tmp_path: Path) -> None:
    sleeper = subprocess.Popen(["sleep", "600"])
    folder = node(tmp_path / "n", pid=sleeper.pid, text="many\nlines\n")
    streamer.send(do="watch", key=1, folder=str(folder), offset=0, quiet=True)
    streamer.send(do="watch", key=2, folder=str(folder), offset=0)
    streamer.until(lambda: 2 in streamer.logs)
    sleeper.kill()
    sleeper.wait()
    streamer.until(lambda: 1 in streamer.endings and 2 in streamer.endings)
    assert 1 not in streamer.logs


def test_what_is_forgotten_says_nothing_more(streamer: LogStreamer, tmp_path: Path) -> None:
    folder, other = node(tmp_path / "n", text="a\n"), node(tmp_path / "o", text="x\n")
    streamer.send(do="watch", key=1, folder=str(folder), offset=0)
    streamer.until(lambda: 1 in streamer.logs)
    streamer.send(do="unwatch", key=1)
    streamer.send(do="watch", key=2, folder=str(other), offset=0)
    streamer.until(lambda: 2 in streamer.logs)  # it has read what it was told
    for log in (folder, other):
        with (log / "events.jsonl").open("a") as file:
            file.write("b\n")
    streamer.until(lambda: streamer.logs[2] == b"x\nb\n")
    assert streamer.logs[1] == b"a\n"


def test_a_slow_reader_does_not_make_it_grow(streamer: LogStreamer, tmp_path: Path) -> None:
    line = b"x" * 1023 + b"\n"
    for number in range(4):
        (node(tmp_path / str(number)) / "events.jsonl").write_bytes(line * 32_000)
        streamer.send(do="watch", key=number, folder=str(tmp_path / str(number)), offset=0)
    status = Path(f"/proc/{streamer.process.pid}/status")

    def megabytes() -> int:
        return int(status.read_text().split("VmRSS:")[1].split()[0]) >> 10

    deadline = time.monotonic() + 1.5
    most = 0
    while time.monotonic() < deadline:  # nobody reads; what would grow without a bound would have grown by then
        most = max(most, megabytes())
    assert most < 40
    streamer.until(lambda: sum(map(len, streamer.logs.values())) == 4 * 32_000 * 1024)
    assert all(data == line * 32_000 for data in streamer.logs.values())


def test_hundreds_of_idle_folders_cost_little(streamer: LogStreamer, tmp_path: Path) -> None:
    for number in range(300):
        streamer.send(do="watch", key=number, folder=str(node(tmp_path / str(number))), offset=0)
    stat = Path(f"/proc/{streamer.process.pid}/stat")

    def cpu() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    streamer.until(lambda: streamer.beats == 2)
    before, began = cpu(), time.monotonic()
    streamer.until(lambda: streamer.beats == 3)
    assert (cpu() - before) / (time.monotonic() - began) < 0.15


def test_a_log_full_of_zeros_is_skipped_a_bounded_part_at_a_time(tmp_path: Path) -> None:
    path, zeros = tmp_path / "events.jsonl", 20_000_000
    with path.open("wb") as file:
        file.write(b"before\n")
        file.truncate(zeros)
    log = LogFile(str(path), 0)
    assert log.read() == LogPart(b"before\n", more=True)
    parts = []
    while (part := log.read()).more:
        parts.append(part)
    assert not any(part.size for part in parts), "what is too long is not held"
    assert len(parts) >= zeros // READ_SIZE - 1
    with path.open("ab") as file:
        file.write(b"in it\nafter\n")
    assert log.read() == LogPart(b"after\n", zeros - len(b"before\n") + len(b"in it\n"))


def test_a_log_file_that_is_read_piece_by_piece_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    data = b"".join(b"%d %s\n" % (n, b"x" * (n * 37 % 5000)) for n in range(2000)) + b"y" * (READ_SIZE + 5) + b"\n"
    path.write_bytes(data)
    log, found, turns = LogFile(str(path), 0), b"", 0
    while len(found) < len(data):
        part = log.read()
        assert not part.skipped
        found, turns = found + part.lines, turns + 1
        assert turns < 100
    assert found == data


def test_a_log_that_is_watched_anew_is_read_once_in_place_of_the_one_before(tmp_path: Path) -> None:
    schedule, folder = LogSchedule(), node(tmp_path / "n", text="a\n")
    for _ in range(3):
        schedule.add(WatchedLog(1, str(folder), 0))
    assert [part.lines for _, part in schedule.read_due() if part is not None] == [b"a\n"]
    time.sleep(0.02)
    assert list(schedule.read_due()) == []
    assert len(schedule._due) == 1
