"""The shim: parent of one rank. It asks the agent what to run, hands over the output pipe, and reports how the rank ended.

``python -I -S shim.py NODE_FOLDER [RANK]``; without RANK a spawner (mpirun) started the shim, which sends its environment to
the agent. Its own exit status is the rank's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from typing import Any, NoReturn

SPAWNER_MINIMUM = 0.15  # seconds that a spawner must see a process live: some lose track of one that is gone at once

UNABLE = 127  # the exit code of a rank that could not be started


def main(folder: str, rank: str) -> int:
    """Run one rank to its end; return its exit code, or 128 + signal."""
    born = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    agent = _connect(folder)
    joins: dict[str, Any] = {"do": "join_rank", "pid": os.getpid(), "env": dict(os.environ)}
    agent.sendall(json.dumps({"do": "serve_rank", "rank": int(rank)} if rank else joins).encode() + b"\n")
    spec = json.loads(_read_line(agent))
    if "error" in spec:
        raise SystemExit(f"shim: the agent did not take this rank: {spec['error']}")
    try:
        read_end, write_end = os.pipe()
        pid = os.fork()
    except OSError as error:
        return _report_unable(agent, error)
    if pid == 0:
        _become_rank(spec, write_end)
    os.close(write_end)
    socket.send_fds(agent, [json.dumps({"started": pid}).encode() + b"\n"], [read_end])
    os.close(read_end)
    _, status, usage = os.wait4(pid, 0)
    at = time.time()
    code = os.waitstatus_to_exitcode(status)
    how = {"exit_code": code if code >= 0 else None, "signal": -code if code < 0 else None}
    agent.sendall(json.dumps({"ended": {**how, "at": at, "max_rss_kb": usage.ru_maxrss}}).encode() + b"\n")
    if not rank:
        time.sleep(max(0.0, born + SPAWNER_MINIMUM - time.monotonic()))
    return code if code >= 0 else 128 - code


def _connect(folder: str) -> socket.socket:
    """Connect to the agent; through a descriptor, since a socket's path may have 107 bytes at most."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        agent.connect(f"/proc/self/fd/{directory}/agent.sock")
    except OSError:
        raise SystemExit("shim: the agent takes no more ranks") from None
    os.close(directory)
    return agent


def _read_line(agent: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = agent.recv(1 << 20)
        if not piece:
            raise SystemExit("shim: the agent did not take this rank")
        data += piece
    return data


def _report_unable(agent: socket.socket, error: OSError) -> int:
    """Report that the node has no room for the rank; return the exit code of what can't be started."""
    why = f"{type(error).__name__}: no process for it: {error.strerror}; look at the node's memory and ulimit -u"
    end = {"exit_code": UNABLE, "signal": None, "at": time.time(), "max_rss_kb": 0, "why": why}
    agent.sendall(json.dumps({"ended": end}).encode() + b"\n")
    return UNABLE


def _become_rank(spec: dict[str, Any], output: int) -> NoReturn:
    """Set up the rank's session, output, folder and environment, and exec its program."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        os.write(2, f"{type(error).__name__}: can't start {spec['argv'][0]!r}: {error.strerror}\n".encode(errors="replace"))
    os._exit(UNABLE)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
