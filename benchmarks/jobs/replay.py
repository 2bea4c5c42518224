"""Plays what jobs once wrote, as if their agents were at it: replay.py PLAN.json, a process for each job.

The plan: ``{"lines": […], "seconds": …, "jobs": [{"log", "born", "said", "code"}]}``; ``born`` is the file that tells of a
living guardian, ``said`` gets the time of the last word, ``code`` (a file, or "") the exit code of a job that has no last word.
"""

import json
import os
import random
import sys
import time


def start_time(pid: int) -> int:
    """Return when a process was born, in the kernel's ticks."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return int(file.read().rpartition(")")[2].split()[19])


def play(job: dict[str, str], lines: list[str], seconds: float) -> None:
    """Write a job's lines, spread evenly but for a little luck, and leave."""
    if job["born"]:
        with open(job["born"], "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "start": start_time(os.getpid())}, file)
    with open(job["log"], "a", encoding="utf-8") as log:
        for line in lines:
            time.sleep(seconds / len(lines) * random.uniform(0.5, 1.5))
            log.write(line)
            log.flush()
    for name, text in ((job["code"], "0"), (job["said"], repr(time.time()))):
        if name:
            with open(name + ".part", "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(name + ".part", name)


def main() -> None:
    """Play all jobs at once."""
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = json.load(file)
    for job in plan["jobs"]:
        if os.fork() == 0:
            play(job, plan["lines"], plan["seconds"])
            os._exit(0)
    for _ in plan["jobs"]:
        os.wait()


main()
