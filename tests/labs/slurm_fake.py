"""FakeSlurm: commands of a Slurm that is slow, full or away when a test wants it; its jobs wait for ever."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "sacct")
TIMED_OUT = "Batch job submission failed: Socket timed out on send/recv operation"
PROGRAM = """#!{python} -IS
import json, sys
from pathlib import Path
here = Path(__file__).parent
name = Path(__file__).name
jobs, mood = (json.loads((here / file).read_text()) for file in ("jobs.json", "mood.json"))
arguments = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
if name == "sbatch" and mood.get("takes", True):
    job = {{"JobID": str(len(jobs) + 1), "name": arguments["job-name"], "Comment": arguments["comment"]}}
    jobs.append({{**job, "State": "PENDING", "Reason": mood.get("reason", "Resources")}})
    print(len(jobs))
if name == "squeue" and "squeue" not in mood:
    columns = [(column, int(width)) for column, _, width in (part.partition(":") for part in arguments["Format"].split(","))]
    wanted = arguments["jobs"].split(",") if "jobs" in arguments else [job["JobID"] for job in jobs]
    for job in jobs:
        if job["JobID"] in wanted and arguments.get("name", job["name"]) == job["name"]:
            print("".join(str(job.get(column, "")).ljust(width) for column, width in columns))
if name == "scancel":
    for job in jobs:
        if job["JobID"] in sys.argv and job["State"] == "PENDING":
            job["State"] = "CANCELLED"
(here / "jobs.json").write_text(json.dumps(jobs))
if name in mood:
    sys.exit(f"{{name}}: error: {{mood[name]}}")
"""


@dataclass(frozen=True)
class FakeSlurm:
    """``folder`` is for ``bin`` of a connection."""

    folder: Path

    @classmethod
    def of(cls, folder: Path) -> FakeSlurm:
        """Make one that takes every job."""
        folder.mkdir()
        for name in COMMANDS:
            (folder / name).write_text(PROGRAM.format(python=sys.executable))
            (folder / name).chmod(0o755)
        (folder / "jobs.json").write_text("[]")
        fake = cls(folder)
        fake.be()
        return fake

    def be(self, **mood: Any) -> None:
        """Make commands fail with words of theirs; ``takes``: whether sbatch takes jobs; ``reason``: what new ones wait for."""
        (self.folder / "mood.json").write_text(json.dumps(mood))

    @property
    def jobs(self) -> list[dict[str, str]]:
        """Every job that was taken."""
        found: list[dict[str, str]] = json.loads((self.folder / "jobs.json").read_text())
        return found

    def change(self, **cells: str) -> None:
        """Make squeue show something else of every job."""
        (self.folder / "jobs.json").write_text(json.dumps([{**job, **cells} for job in self.jobs]))
