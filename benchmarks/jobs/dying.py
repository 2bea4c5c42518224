"""Two ranks, each with a child that left their session; rank 1 dies by SIGKILL after a second: dying.py FILE MARK."""

import os
import signal
import subprocess
import sys
import time

died, mark = sys.argv[1:]
if "BENCH_RANK" not in os.environ:  # /proc shows the variables a process was started with, so it is started once more
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "BENCH_RANK": mark})

rank = int(os.environ.get("RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
environ = {"PATH": os.environ.get("PATH", os.defpath), "BENCH_STRAY": mark}
subprocess.Popen(["sleep", "300"], start_new_session=True, env=environ, **nowhere)
if rank == 1:
    time.sleep(1)
    with open(died + ".part", "w") as file:
        file.write(repr(time.time()))
    os.rename(died + ".part", died)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(300)
