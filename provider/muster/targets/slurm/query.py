"""The commands that ask Slurm about jobs, partitions and nodes, and the parsers of what they print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muster.targets.slurm.states import LOST, JobState, state_of
from muster.targets.watch.news import News

COLUMNS = {"JobID": 20, "State": 24, "RestartCnt": 8, "Reason": 120, "NodeList": 400}
SACCT = "JobIDRaw,State,DerivedExitCode,NodeList"
NOTHING = frozenset({"", "None assigned", "(null)", "N/A"})


@dataclass(frozen=True, kw_only=True)
class SlurmJobStatus(News):
    """The state of one job. ``restarts``: how often Slurm has started the job again by itself, -1 if that is not known."""

    job: str
    name: str
    restarts: int = -1
    reason: str = ""
    nodes: str = ""
    lost: str = ""  # which of the nodes are down, and why

    @property
    def state(self) -> JobState:
        """Return what the state means."""
        return state_of(self.name) if self.name else LOST


def squeue_command(jobs: Sequence[str] = ()) -> list[str]:
    """Return the command that shows the jobs of this user, or ``jobs``; ended ones as long as Slurm remembers them."""
    fields = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    whose = [f"--jobs={','.join(jobs)}"] if jobs else ["--me"]
    return ["squeue", "--noheader", "--states=all", *whose, f"--Format={fields}"]


def parse_squeue(out: str) -> dict[str, SlurmJobStatus]:
    """Return the states that squeue prints, by job."""
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


def sacct_command(jobs: Iterable[str]) -> list[str]:
    """Return the command that shows the accounting of jobs that have left the queue."""
    return ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(jobs)}", f"--format={SACCT}"]


def parse_sacct(out: str) -> dict[str, SlurmJobStatus]:
    """Return the states that sacct prints, by job; the last one of a job that was started several times."""
    found = {}
    for line in out.splitlines():
        job, name, _, nodes = [*line.split("|"), "", "", ""][:4]
        if job:
            found[job] = SlurmJobStatus(job=job, name=name, nodes=_or_nothing(nodes))
    return found


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The limits of a partition: its nodes, how many of them one job may have ("infinite" or a number), and for how long."""

    name: str
    nodes: int
    size: str
    time: str

    def fits(self, nodes: int) -> bool:
        """Return whether a job of so many nodes could ever start there."""
        most = self.size.rpartition("-")[2]
        return nodes <= self.nodes and not (most.isdigit() and nodes > int(most))

    def __str__(self) -> str:
        return f"partition {self.name} has {self.nodes} nodes, gives a job {self.size} of them and {self.time} of time"


def partitions_command(name: str) -> list[str]:
    """Return the command that shows the limits of a partition, "" for all of them."""
    return ["sinfo", "--noheader", *([f"--partition={name}"] if name else []), "--format=%P|%D|%s|%l"]


def parse_partition(out: str, name: str) -> Partition | None:
    """Return one partition, "" for the default one; its nodes may be on several lines, by their limits."""
    rows = [line.split("|") for line in out.splitlines() if line.count("|") == 3]
    own = [row for row in rows if (row[0].rstrip("*") == name if name else row[0].endswith("*"))]
    if not own:
        return None
    called, _, size, limit = own[0]
    return Partition(name=called.rstrip("*"), nodes=sum(int(row[1]) for row in own), size=size, time=limit)


def nodes_command(nodes: str) -> list[str]:
    """Return the command that shows which of some nodes can't be used, and why."""
    states = "--states=down,fail,no_respond,drain,unknown"
    return ["sinfo", "--noheader", "--Node", f"--nodes={nodes}", states, "--format=%N|%T|%E"]


def parse_nodes(out: str) -> str:
    """Return in words which nodes can't be used."""
    rows = sorted({tuple([*line.split("|"), "", ""][:3]) for line in out.splitlines() if line.strip()})
    return ", ".join(f"{name} is {state.rstrip('*')} ({why})" for name, state, why in rows)


def _cells(line: str) -> dict[str, str]:
    cells, at = {}, 0
    for name, width in COLUMNS.items():
        cells[name], at = line[at : at + width].strip(), at + width
    return cells


def _or_nothing(text: str) -> str:
    return "" if text in NOTHING else text
