"""The remote shell of spawners: ``python -I -S remote_shell.py NODE_FOLDER HOST WORD…`` runs a line on a node, by the agents.

Like ssh it joins the words by spaces, runs the line in the node's shell, and ends with the line's exit code.
"""

from __future__ import annotations

import json
import os
import socket
import sys

FAILED = 255  # what ssh says when the line could not be run at all


def main(folder: str, host: str, words: list[str]) -> int:
    """Run the line through the agent; return the exit code."""
    try:
        with _connect(folder) as agent, agent.makefile("rb") as answers:
            request = {"do": "run_remotely", "host": host, "line": " ".join(words)}
            agent.sendall(json.dumps(request).encode() + b"\n")
            for answer in map(json.loads, answers):
                if "out" not in answer:
                    return _end(answer.get("exit", FAILED), answer.get("error", ""))
                os.write(1, answer["out"].encode("latin-1"))
    except OSError as error:
        return _end(FAILED, f"the agent of this node does not answer: {error.strerror}")
    return _end(FAILED, "the agent of this node runs nothing more")


def _connect(folder: str) -> socket.socket:
    """Connect to the agent; through a descriptor, since a socket's path may have 107 bytes at most."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    agent.connect(f"/proc/self/fd/{directory}/agent.sock")
    return agent


def _end(exit_code: int, error: str) -> int:
    if error:
        os.write(2, f"muster-remote-shell: {error}\n".encode(errors="replace"))
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
