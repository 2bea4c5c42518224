"""Deferred: two hundred jobs of one SSH host followed by one triggerer, and the same done by SSHRemoteJobOperator's trigger."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
from benchmarks import processes
from benchmarks.peers import BenchError, free_port
from benchmarks.report import Row, row

SCRIPTS = Path(__file__).resolve().parent / "jobs"
JOBS = 200
LINES = 30  # of each job
SECONDS = 30.0  # from a job's first line to its end
ROUNDS = 3
PEER_ROUNDS = 1  # its three commands per job and look take all there is of two cores, for minutes
OURS = "muster.triggers.training.TrainingTrigger"
PEER = "airflow.providers.ssh.triggers.ssh_remote_job.SSHRemoteJobTrigger"
PEER_NAME = "SSHRemoteJobTrigger"
CONNECTION = "bench_host"
HOST = "127.0.0.1"
SSHD = """Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
RUNNING_TIME = 600.0  # seconds after which a job whose end has not been seen counts as lost
STOPPING_TIME = 60.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one triggerer cost: the 99th percentile of its loop's delays in ms, how late ends were seen in s, MB per job."""

    delay: float
    latest: float
    memory: float
    connections: float
    lost: float  # jobs whose trigger gave up, or had not seen the end in time


def deferred(folder: Path) -> list[Row]:
    """Measure the rows of two hundred deferred jobs; SSH server and keys are there before anything is timed."""
    folder.mkdir(parents=True)
    with _ssh_host(folder) as host:
        mine = [host.ours(number) for number in range(ROUNDS)]
        theirs = [host.peers(number) for number in range(PEER_ROUNDS)]
    units = {
        "delay": "ms, p99",
        "latest": "s, the latest",
        "memory": "MB per job",
        "connections": "connections",
        "lost": "jobs lost",
    }
    names = {"delay": "deferred_200", **{field: f"deferred_200_{field}" for field in units if field != "delay"}}
    return [
        row(names[field], unit, [getattr(r, field) for r in mine], [getattr(r, field) for r in theirs], PEER_NAME)
        for field, unit in units.items()
    ]


@contextmanager
def _ssh_host(folder: Path) -> Iterator[_Host]:
    """Run an SSH server with default limits on loopback for as long as the context lasts."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if sshd is None:
        raise BenchError("no sshd: scripts/system.sh installs it (apt-get install openssh-server)")
    for key in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    port = free_port()
    (folder / "sshd_config").write_text(SSHD.format(port=port, host=HOST, folder=folder), encoding="utf-8")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with children.running([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], folder / "sshd.log", os.environ):
        processes.wait_for(lambda: _listens(port), "the SSH server")
        yield _Host(folder=folder, port=port)


def _listens(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return any(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in rows)


@dataclass(frozen=True, kw_only=True)
class _Host:
    folder: Path
    port: int

    # -- ours

    def ours(self, number: int) -> Round:
        """Follow jobs of an SSH target, which are in its queue as launched."""
        root = self.folder / f"root-{number}"
        config = self._config(root)
        handles = _launched(config, [f"deferred-{number}-{job}" for job in range(JOBS)], root)
        played = [
            {"log": f"{home}/events.jsonl", "born": f"{home}/guardian.json", "said": f"{home}/said", "code": ""}
            for home in handles.values()
        ]
        task = {"dag_id": "bench", "run_id": "bench", "task_id": "bench", "map_index": -1}
        arguments = [{"handle": handle, "compute_target": config, "task": task} for handle in map(json.loads, handles)]
        return self._round(f"ours-{number}", OURS, arguments, played, _events())

    def _config(self, root: Path) -> dict[str, Any]:
        key = (self.folder / "host_key.pub").read_text(encoding="ascii").split()
        host = {"name": "host", "host": HOST, "port": self.port, "host_key": " ".join(key[:2])}
        login = {"user": getpass.getuser(), "key_file": str(self.folder / "key")}
        return {"type": "ssh", "hosts": [host], **login, "root": str(root), "python": sys.executable}

    # -- the peer

    def peers(self, number: int) -> Round:
        """Follow the same output as SSHRemoteJobOperator's jobs write it."""
        homes = [self.folder / f"peer-{number}" / str(job) for job in range(JOBS)]
        for home in homes:
            home.mkdir(parents=True)
            (home / "log").touch()
        played = [{"log": f"{h}/log", "born": "", "said": f"{h}/said", "code": f"{h}/code"} for h in homes]
        arguments = [
            {
                "ssh_conn_id": CONNECTION,
                "remote_host": None,
                "job_id": home.name,
                "job_dir": str(home),
                "log_file": f"{home}/log",
                "exit_code_file": f"{home}/code",
                "remote_os": "posix",
            }
            for home in homes
        ]
        return self._round(f"peers-{number}", PEER, arguments, played, [f"line {line} of {LINES}\n" for line in range(LINES)])

    # -- both

    def _round(
        self, name: str, trigger: str, arguments: list[dict[str, Any]], played: list[dict[str, str]], lines: list[str]
    ) -> Round:
        """Have a triggerer follow jobs that are played once it is there."""
        files = {file: str(self.folder / f"{name}.{file}") for file in ("ready", "out")}
        watching = self._write(
            name, {"trigger": trigger, "arguments": arguments, "port": self.port, "limit": RUNNING_TIME, **files}
        )
        playing = self._write(f"{name}-played", {"lines": lines, "seconds": SECONDS, "jobs": played})
        triggerer, log = [sys.executable, str(SCRIPTS / "triggerer.py"), str(watching)], self.folder / f"{name}.log"
        with log.open("wb") as words, subprocess.Popen(triggerer, stdout=words, stderr=words, env=self._environ()) as process:
            processes.wait_for(lambda: Path(files["ready"]).exists() or process.poll() is not None, "the triggerer")
            subprocess.run([sys.executable, str(SCRIPTS / "replay.py"), str(playing)], check=True, timeout=RUNNING_TIME)
            process.wait(timeout=RUNNING_TIME + STOPPING_TIME)
        if process.returncode:
            raise BenchError(f"the triggerer ended with {process.returncode}: {log.read_text()[-3000:]}")
        said = json.loads(Path(files["out"]).read_text(encoding="utf-8"))
        return _round(said, [float(Path(job["said"]).read_text(encoding="ascii")) for job in played])

    def _write(self, name: str, plan: Mapping[str, Any]) -> Path:
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(plan), encoding="utf-8")
        return file

    def _environ(self) -> dict[str, str]:
        key = (self.folder / "host_key.pub").read_text(encoding="ascii").split()
        extra = {"key_file": str(self.folder / "key"), "no_host_key_check": False, "host_key": " ".join(key[:2])}
        connection = {"conn_type": "ssh", "host": HOST, "port": self.port, "login": getpass.getuser(), "extra": extra}
        airflow = {"AIRFLOW_HOME": str(self.folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        return {**os.environ, **airflow, f"AIRFLOW_CONN_{CONNECTION.upper()}": json.dumps(connection)}


def _round(said: Mapping[str, Any], ends: list[float]) -> Round:
    late = [when - end for (when, payload), end in zip(said["fired"], ends, strict=True) if _is_success(payload)]
    return Round(
        delay=statistics.quantiles(said["delays"], n=100)[98],
        latest=max(late, default=RUNNING_TIME),
        memory=said["memory"] / JOBS,
        connections=float(said["connections"]),
        lost=float(JOBS - len(late)),
    )


def _is_success(payload: Mapping[str, Any] | None) -> bool:
    seen = payload or {}
    return seen.get("status") == "success" or seen.get("outcome", {}).get("state") == "Completed"


def _events() -> list[str]:
    """Return what a job's only node writes, its last words included."""
    from muster.core.event import END, LINE, NODE_END, STATE, Event

    lines = [(LINE, {"rank": 0, "text": f"line {line} of {LINES}"}) for line in range(LINES)]
    end = {"state": "Completed", "verdict": None, "manifest": None, "digest": None, "uri": "", "metrics": {}, "files": 0}
    kinds = [(STATE, {"state": "Running"}), *lines, (END, end), (NODE_END, {})]
    return [Event(time=time.time(), kind=kind, node=0, data=data).to_line() for kind, data in kinds]


def _launched(config: dict[str, Any], names: list[str], root: Path) -> dict[str, Path]:
    """Enter jobs in the target's queue as launched; gives their handles as JSON, with their node folders."""
    from muster import targets
    from muster.core.codec import canonical
    from muster.node.host.gang_scheduler import LAUNCHED, Allocation, ResourceRequest
    from muster.targets.claim import Claim
    from muster.targets.hosts.background import background

    target: Any = targets.open_target(config)
    jobs = target._jobs

    async def claim(name: str) -> tuple[str, Path]:
        now = time.time()
        made = Claim(job_id=name, generation=1, attempt=1, plan_digest="", store="", nodes=1, submitted=now, first_started=now)
        home = root / "jobs" / name / "g1-a1" / "node-0"
        home.mkdir(parents=True)
        places = (Allocation(host="host", folder=str(home)),)
        resources = ResourceRequest(nodes=1, slots=0, gpus=0, bundle="", state=LAUNCHED, allocations=places)
        await jobs.queue.claim(made, None, resources)
        return canonical(made.handle(target.name, "launched")).decode(), home

    async def claims() -> list[tuple[str, Path]]:
        return [await claim(name) for name in names]

    return dict(background().run(claims()))
