"""The guardian outlives its agent, whatever becomes of that one; a short program stands in for the agent's code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import muster
from muster.node import processes
from store_server import wait_until

GUARD = """
import sys
sys.path.insert(0, {library!r})
from muster.node.agent import guardian
guardian.SILENCE = {silence}
sys.argv = [{agent!r}]
sys.exit(guardian.main({folder!r}))
"""
AGENT = """
import os, signal, socket, subprocess, sys
line = socket.socket(fileno=int(sys.argv[3]))
line.set_inheritable(False)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
line.send(b"beat ")
subprocess.Popen(["sleep", "600"], start_new_session=True)
"""


def code_of(tmp_path: Path, ending: str, silence: float = 60.0) -> str:
    """Write the agent; gives the code of a guardian that takes so many seconds without a word for its death."""
    (tmp_path / "agent.py").write_text(AGENT + ending)
    library = str(Path(muster.__file__).parents[1])
    return GUARD.format(library=library, agent=str(tmp_path / "agent.py"), folder=str(tmp_path), silence=silence)


def guard(tmp_path: Path, ending: str, silence: float = 60.0, node: int = 0) -> tuple[int, list[dict[str, object]]]:
    """Run a guardian over an agent that starts a stray child and ends as told; gives status and events."""
    (tmp_path / "assignment.json").write_text(json.dumps({"node": node}))
    code = code_of(tmp_path, ending, silence)
    env = {**os.environ, "GUARDED": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], timeout=120, check=False, env=env)
    assert processes.marked(f"GUARDED={tmp_path}") == [], "a stray child is left"
    events = tmp_path / "events.jsonl"
    return done.returncode, [json.loads(line) for line in events.read_text().splitlines()] if events.exists() else []


def test_an_orderly_end_adds_nothing(tmp_path: Path) -> None:
    assert guard(tmp_path, "") == (0, [])


@pytest.mark.parametrize(
    ("ending", "silence", "status", "how"),
    [
        ("os.kill(os.getpid(), 9)", 60.0, 137, "signal 9"),
        ("os.kill(os.getpid(), 19)", 1.0, 137, "signal 9"),  # stopped: silent, so killed
        ("sys.exit(70)", 60.0, 70, "exit 70"),
    ],
)
def test_a_dead_or_silent_agent_is_spoken_for(tmp_path: Path, ending: str, silence: float, status: int, how: str) -> None:
    code, events = guard(tmp_path, ending, silence)
    assert code == status
    assert [event["k"] for event in events] == ["note", "end", "node_end"]
    assert how in str(events[0]["text"])


@pytest.mark.parametrize(("node", "told"), [(1, []), (0, ["note", "end", "node_end"])])
def test_a_follower_that_found_no_leader_did_not_die(tmp_path: Path, node: int, told: list[str]) -> None:
    code, events = guard(tmp_path, "sys.exit(75)", node=node)
    assert (code, [event["k"] for event in events]) == (75, told)


def test_half_a_line_of_the_agents_stays_half_a_line(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"t": 1, "k": "li')
    (tmp_path / "assignment.json").write_text('{"node": 1}')
    code = code_of(tmp_path, "os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code], timeout=120, check=False)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[0] == '{"t": 1, "k": "li'
    assert [json.loads(line)["k"] for line in lines[1:]] == ["note", "node_end"]


def test_term_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "assignment.json").write_text('{"node": 0}')
    wait = "signal.signal(15, lambda *_: sys.exit(0))\nopen('up', 'w').close()\nsignal.pause()"
    with subprocess.Popen([sys.executable, "-c", code_of(tmp_path, wait)]) as child:
        wait_until((tmp_path / "up").exists)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
