"""What a script starts to outlive it keeps nothing of the caller's open: `make test | tail` ends on a fresh machine too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from store_server import wait_until

DAEMON = Path(__file__).parents[1] / "scripts" / "daemon.py"


def test_a_daemon_keeps_no_descriptor_of_its_caller(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    read, write = os.pipe()
    # a shell with its output saved in another descriptor, as dash does for a redirected function
    script = 'exec 7>&1; "$0" "$@"; echo done'
    argv = ["sh", "-c", script, sys.executable, str(DAEMON), str(log), "sh", "-c", "echo $$; exec sleep 120"]
    done = subprocess.run(argv, capture_output=True, text=True, pass_fds=(write,), timeout=60, check=True)
    os.close(write)
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), what="the daemon has started")
    pid = int(log.read_text())
    try:
        assert done.stdout == "done\n"
        assert os.read(read, 1) == b"", "the end of the pipe: nobody else holds it"
        assert os.getsid(pid) == pid
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2)} == {str(log)}
        assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(read)
