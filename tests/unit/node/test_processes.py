"""Descendants are found and ended, whatever session they are in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from muster.node import processes
from store_server import wait_until

TREE = textwrap.dedent(
    """
    import os, subprocess, sys
    from muster.node import processes
    processes.become_subreaper()
    code = "import os, time\\nos.fork() or os.setsid()\\nos.fork()\\nprint('up', flush=True)\\ntime.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    for _ in range(4):
        child.stdout.readline()
    before = len(processes.descendants(os.getpid()))
    left = processes.kill_descendants(os.getpid())
    print(before, left, processes.descendants(os.getpid()))
    """
)


def test_a_whole_tree_is_killed() -> None:
    done = subprocess.run([sys.executable, "-c", TREE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "4 [] []"


ANOTHER_USERS = textwrap.dedent(
    """
    import json, os, subprocess
    from muster.node import processes
    processes.become_subreaper()
    alien = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.setgid(65534)
    os.setuid(65534)
    subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    left = processes.kill_descendants(os.getpid(), limit=600.0)
    print(json.dumps({"alien": alien.pid, "left": left, "living": processes.descendants(os.getpid())}))
    """
)


@pytest.mark.skipif(os.geteuid() != 0, reason="processes of two users need root")
def test_another_users_process_is_told_and_the_others_are_killed() -> None:
    done = subprocess.run([sys.executable, "-c", ANOTHER_USERS], capture_output=True, text=True, timeout=120, check=True)
    told = json.loads(done.stdout)
    os.kill(told["alien"], signal.SIGKILL)
    assert told["left"] == told["living"] == [told["alien"]]


def test_marked_processes_are_found_by_their_environment() -> None:
    env = {**os.environ, "MUSTER_TEST_MARK": "x y"}
    with subprocess.Popen(["sleep", "60"], env=env) as child:
        wait_until(lambda: processes.marked("MUSTER_TEST_MARK=x y") == [child.pid])
        processes.send_signal([child.pid], 9)
    assert processes.marked("MUSTER_TEST_MARK=x y") == []


def test_start_time_of_the_dead_is_zero() -> None:
    with subprocess.Popen(["true"]) as child:
        wait_until(lambda: processes.start_time(child.pid) == 0)
    assert processes.start_time(os.getpid()) > 0
