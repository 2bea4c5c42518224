"""Start a command that outlives its caller, and keeps nothing of the caller's open: daemon.py LOG COMMAND [ARGUMENT …]."""

from __future__ import annotations

import subprocess
import sys


def main(log: str, *argv: str) -> None:
    """Start it in a session of its own; what it says is added to the log. Popen closes every other descriptor."""
    with open(log, "ab") as output:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
