"""What Slurm is asked about jobs, and how its answers are read: squeue for all that it still knows, sacct for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muster.targets.slurm.states import LOST, JobState, state_of

COLUMNS = {"JobID": 20, "State": 24, "RestartCnt": 8, "Reason": 120, "NodeList": 400}
SACCT = "JobIDRaw,State,DerivedExitCode,NodeList"
NOTHING = frozenset({"", "None assigned", "(null)", "N/A"})


@dataclass(frozen=True, kw_only=True)
class SlurmJobStatus:
    """What Slurm says of one job. ``restarts``: how often it has started the job again by itself, -1 if it does not say."""

    job: str
    name: str
    restarts: int = -1
    reason: str = ""
    nodes: str = ""
    lost: str = ""  # which of the nodes are down, and why

    @property
    def state(self) -> JobState:
        """What the state means."""
        return state_of(self.name) if self.name else LOST


def squeue(jobs: Sequence[str] = ()) -> list[str]:
    """Give the command that shows the jobs of this user, ended ones as long as Slurm remembers them; of ``jobs`` only."""
    fields = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    whose = [f"--jobs={','.join(jobs)}"] if jobs else ["--me"]
    return ["squeue", "--noheader", "--states=all", *whose, f"--Format={fields}"]


def queued(out: str) -> dict[str, SlurmJobStatus]:
    """Read what squeue prints, by job."""
    rows = [_cells(line) for line in out.splitlines() if line.strip()]
    return {
        row["JobID"]: SlurmJobStatus(
            job=row["JobID"],
            name=row["State"],
            restarts=int(row["RestartCnt"] or 0),
            reason=row["Reason"],
            nodes=_or_nothing(row["NodeList"]),
        )
        for row in rows
    }


def sacct(jobs: Iterable[str]) -> list[str]:
    """Give the command that shows what accounting has of jobs that have left the queue."""
    return ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(jobs)}", f"--format={SACCT}"]


def accounted(out: str) -> dict[str, SlurmJobStatus]:
    """Read what sacct prints, by job; of one that was started several times the last."""
    found = {}
    for line in out.splitlines():
        job, name, _, nodes = [*line.split("|"), "", "", ""][:4]
        if job:
            found[job] = SlurmJobStatus(job=job, name=name, nodes=_or_nothing(nodes))
    return found


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What a partition has: nodes, how many of them one job may have ("infinite" or a number), and for how long."""

    name: str
    nodes: int
    size: str
    time: str

    def takes(self, nodes: int) -> bool:
        """Whether a job of so many nodes could ever start there."""
        most = self.size.rpartition("-")[2]
        return nodes <= self.nodes and not (most.isdigit() and nodes > int(most))

    def __str__(self) -> str:
        return f"partition {self.name} has {self.nodes} nodes, gives a job {self.size} of them and {self.time} of time"


def partitions(name: str) -> list[str]:
    """Give the command that shows what partitions have; ``name`` is one, "" for all."""
    return ["sinfo", "--noheader", *([f"--partition={name}"] if name else []), "--format=%P|%D|%s|%l"]


def partition_of(out: str, name: str) -> Partition | None:
    """Read that of one partition, "" for the default one; its nodes may be on several lines, by their limits."""
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 3]
    own = [row for row in rows if (row[0].rstrip("*") == name if name else row[0].endswith("*"))]
    if not own:
        return None
    called, _, size, limit = own[0]
    return Partition(name=called.rstrip("*"), nodes=sum(int(row[1]) for row in own), size=size, time=limit)


def down(nodes: str) -> list[str]:
    """Give the command that shows which of some nodes can't be used, and why."""
    states = "--states=down,fail,no_respond,drain,unknown"
    return ["sinfo", "--noheader", "--Node", f"--nodes={nodes}", states, "--format=%N|%T|%E"]


def lost_of(out: str) -> str:
    """Read that, in words."""
    rows = sorted({tuple([*line.split("|"), "", ""][:3]) for line in out.splitlines() if line.strip()})
    return ", ".join(f"{name} is {state.rstrip('*')} ({why})" for name, state, why in rows)


def _cells(line: str) -> dict[str, str]:
    cells, at = {}, 0
    for name, width in COLUMNS.items():
        cells[name], at = line[at : at + width].strip(), at + width
    return cells


def _or_nothing(text: str) -> str:
    return "" if text in NOTHING else text
