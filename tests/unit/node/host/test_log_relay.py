"""The relay pushes whole lines from where it is told to, ends with the node's last word, and when nobody listens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from muster.node import processes, start

LAST = '{"t": 1, "k": "node_end", "n": 0}\n'


def relay(folder: Path, offset: int = 0) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", "-S", start.__file__, "relay", str(folder), str(offset)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def born(folder: Path, pid: int) -> None:
    (folder / "guardian.json").write_text(json.dumps({"pid": pid, "start": processes.start_time(pid)}))


def test_it_pushes_what_comes_from_an_offset_to_the_last_word(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text("first\nsecond\nthi")
    born(tmp_path, os.getpid())
    with relay(tmp_path, len("first\n")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"second\n"
        with log.open("a") as file:
            file.write("rd\n" + LAST)
        assert process.stdout.read().decode() == "third\n" + LAST
        assert process.wait(60) == 0


def test_it_ends_when_nobody_listens(tmp_path: Path) -> None:
    born(tmp_path, os.getpid())
    with relay(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def test_it_ends_when_nobody_is_left_to_write(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("only\n")
    (tmp_path / "guardian.json").write_text(json.dumps({"pid": os.getpid(), "start": 1}))
    with relay(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"only\n"
        assert process.wait(60) == 1


def test_a_line_that_is_too_long_ends_it_and_is_measured(tmp_path: Path) -> None:
    born(tmp_path, os.getpid())
    long = b"x" * 5_000_000 + b"\n"
    (tmp_path / "events.jsonl").write_bytes(b"first\n" + long + LAST.encode())
    for offset, pushed, skipped in ((0, b"first\n", len(long)), (6 + len(long), LAST.encode(), 0)):
        argv = [sys.executable, "-I", "-S", start.__file__, "relay", str(tmp_path), str(offset)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(argv, **pipes) as process:  # type: ignore[call-overload]
            assert process.stdout.read() == pushed
            assert process.wait(60) == 0
            errors = process.stderr.read()
            assert (json.loads(errors)["skipped"] if errors else 0) == skipped
