"""Launch: what it costs to start, end and watch over two nodes of this machine, beside torchrun, TorchX and Open MPI."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import seaweedfs
from benchmarks import processes
from benchmarks.ours import BUCKET, HOME, KEYS, Ours
from benchmarks.peers import NOOP, ROOT, BenchError, Peers, install
from benchmarks.report import Goal, Row, row
from benchmarks.rounds import in_turn, timed

JOBS = Path(__file__).resolve().parent / "jobs"
DIGITS = ROOT / "dags" / "digits"
ROUNDS = 7
STEP_ROUNDS = 11  # a shared machine moves single rates by a tenth
EPOCHS = 150
IDLE_WINDOW = 30.0  # seconds over which an idle agent's processor time is taken
IDLE_WINDOWS = 3
NOOPS = ("noop_vs_torchrun", "noop_vs_torchx", "noop_vs_mpirun")
AGENTS = ("agent_rss", "agent_cpu")
ROWS = (*NOOPS, "teardown", "steps_vs_torchrun", *AGENTS)
GOALS = {
    "noop_vs_torchrun": Goal(at_most=0.35),
    "noop_vs_torchx": Goal(at_most=2.0),
    "teardown": Goal(at_most=0.5, of="ours"),
    "steps_vs_torchrun": Goal(at_least=0.98),
    "agent_rss": Goal(at_most=40, of="ours"),
    "agent_cpu": Goal(at_most=0.2, of="ours"),
}


def measure(wanted: Sequence[str]) -> list[Row]:
    """Measure the wanted rows; the tools and the store are set up before anything is timed."""
    peers = install(ROOT / ".muster" / "bench")
    scratch = Path(tempfile.mkdtemp(prefix="launch-", dir=ROOT / ".muster" / "bench"))
    try:
        with seaweedfs.server(scratch / "store", BUCKET, *KEYS.values()) as endpoint:
            bench = _Launch(ours=Ours(folder=scratch, endpoint=endpoint), peers=peers)
            rows = [r for measured in bench.wanted(wanted) for r in measured()]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [r for r in rows if r.row in wanted]


@dataclass(frozen=True, kw_only=True)
class _Launch:
    ours: Ours
    peers: Peers

    def wanted(self, names: Sequence[str]) -> list[Callable[[], list[Row]]]:
        """Return the measurements that make these rows, in order."""
        makers = {**dict.fromkeys(NOOPS, self.noop), "teardown": self.teardown, "steps_vs_torchrun": self.steps}
        makers.update(dict.fromkeys(AGENTS, self.agents))
        return list(dict.fromkeys(makers[name] for name in names))

    def _two_nodes(self, name: str, **parameters: object) -> Path:
        environment = {"interpreter": self.peers.python, "user_managed_dependencies": True}
        common = {"framework": "pytorch", "node_count": 2, "distributed_backend": "gloo", "environment": environment}
        return self.ours.job(name, **common, **parameters)

    # -- nothing, from command to exit

    def noop(self) -> list[Row]:
        program = [self.peers.python, *NOOP]
        job = self._two_nodes("noop", command=program)
        contenders: list[Callable[[], object]] = [
            lambda: self.ours.run(job),
            lambda: self.peers.torchruns(program),
            self.peers.torchx,
            lambda: self.peers.mpirun(program),
        ]
        mine, *theirs = in_turn([timed(contender) for contender in contenders], ROUNDS)
        names = ("2 torchruns", "torchx run -s local_cwd", "mpirun -n 2")
        return [row(r, "s", mine, seconds, who) for r, seconds, who in zip(NOOPS, theirs, names, strict=True)]

    # -- the death of a rank

    def teardown(self) -> list[Row]:
        mine, theirs = in_turn([self._our_teardown, self._mpirun_teardown], ROUNDS)
        return [row("teardown", "s", mine, theirs, "mpirun, ranks only: it leaves setsid children alive")]

    def _our_teardown(self) -> float:
        mark, died = self._new_death()
        job = self._two_nodes("teardown", source_directory=str(JOBS), entry_script="dying.py", arguments=[str(died), mark])
        with subprocess.Popen(self.ours.argv("run", str(job)), env=self.ours.environ(), **_QUIET) as process:
            seconds = _gone_after(died, lambda: [*_ranks(mark), *_strays(mark)], mark)
            process.wait(timeout=120)
        if process.returncode != 1:
            raise BenchError(f"a run whose rank was killed ended with {process.returncode}")
        return seconds

    def _mpirun_teardown(self) -> float:
        mark, died = self._new_death()
        argv = self.peers.mpirun_argv([self.peers.python, str(JOBS / "dying.py"), str(died), mark])
        with subprocess.Popen(argv, env=self.peers.environ(), cwd=self.peers.work, **_QUIET) as process:
            try:
                seconds = _gone_after(died, lambda: _ranks(mark), mark)
                process.wait(timeout=120)
            finally:
                processes.kill(_strays(mark))
        return seconds

    def _new_death(self) -> tuple[str, Path]:
        mark = uuid.uuid4().hex
        return mark, self.ours.folder / f"died-{mark}"

    # -- a training

    def steps(self) -> list[Row]:
        source = self.ours.folder / "training"
        source.mkdir()
        for file in (DIGITS / "train.py", JOBS / "timed_training.py"):
            shutil.copy(file, source)
        arguments = ["--epochs", str(EPOCHS)]
        job = self._two_nodes("steps", source_directory=str(source), entry_script="timed_training.py", arguments=arguments)
        program = [self.peers.python, "timed_training.py", *arguments]
        mine, theirs = in_turn([lambda: _rate(self.ours.run(job)), lambda: self._torchrun_rate(source, program)], STEP_ROUNDS)
        return [row("steps_vs_torchrun", "steps/s", mine, theirs, "2 torchruns")]

    def _torchrun_rate(self, source: Path, program: Sequence[str]) -> float:
        """Each time in a fresh folder: the training would go on from its own checkpoint."""
        with tempfile.TemporaryDirectory(dir=self.ours.folder) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            return _rate("".join(self.peers.torchruns(program, cwd=Path(folder), PYTHONPATH=str(ROOT / "provider"))))

    # -- agents with nothing to do

    def agents(self) -> list[Row]:
        job = self._two_nodes("idle", command=[self.peers.python, "-c", "import time; time.sleep(3600)"])
        with self.ours.running(job) as run:
            nodes = self._agents_of(run)
            windows = [_idle_window(nodes) for _ in range(IDLE_WINDOWS)]
        memory, cpu = zip(*windows, strict=True)
        return [row("agent_rss", "MB", memory), row("agent_cpu", "% of a core", cpu)]

    def _agents_of(self, run: str) -> list[list[int]]:
        """Return the pids of guardian and agent, node by node."""
        folders = sorted((self.ours.folder / HOME / "jobs" / run).glob("g1-a1/node-*"))
        return [[json.loads((f / name).read_text())["pid"] for name in ("guardian.json", "agent.json")] for f in folders]


_QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _ranks(mark: str) -> list[int]:
    return processes.marked("BENCH_RANK", mark)


def _strays(mark: str) -> list[int]:
    return processes.marked("BENCH_STRAY", mark)


def _gone_after(died: Path, left: Callable[[], object], mark: str) -> float:
    """Return the seconds from a rank's death, as it wrote it down itself, until nothing is left."""
    processes.wait_for(lambda: len(_ranks(mark)) == 2 and len(_strays(mark)) == 2, "two ranks and their children")
    processes.wait_for(died.exists, "the death of a rank")
    processes.wait_for(lambda: not left(), "the end of what a dead rank's job had started")
    return time.time() - float(died.read_text(encoding="ascii"))


def _idle_window(nodes: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Return memory in MB and processor time in percent of a core of the node that takes most."""
    before, began = [sum(map(processes.processor_seconds, pids)) for pids in nodes], time.monotonic()
    time.sleep(IDLE_WINDOW)
    took = time.monotonic() - began
    after = [sum(map(processes.processor_seconds, pids)) for pids in nodes]
    memory = max(sum(map(processes.resident_megabytes, pids)) for pids in nodes)
    return memory, max(100 * (b - a) / took for a, b in zip(before, after, strict=True))


def _rate(text: str) -> float:
    """Find the rate that the training says at its end."""
    found = re.search(r"steps per second: ([0-9.]+)", text)
    if found is None:
        raise BenchError(f"the training said no rate:\n{text}")
    return float(found[1])
