"""SlurmCluster: a real Slurm of a few nodes on this machine, with accounting and fake GPUs; all of it on loopback."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import children
from muster.node import processes

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mungekey", "mariadbd", "mysql_install_db", "sbatch", "sacct")
GPUS = 2  # of a node
CPUS, MEMORY = 8, 4000  # of a node, as Slurm is told: nobody reserves what this machine does not have
START_LIMIT = 120.0
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# of an nvidia-smi: it shows the devices that Slurm gave
NVIDIA_SMI = """#!/bin/sh
i=0
while [ $i -lt %d ]; do echo "$i, Fake GPU, 1024 MiB, 550.1"; i=$((i + 1)); done
"""


@dataclass
class SlurmCluster:
    """``folder`` holds everything. Partitions: batch (default, preempted by urgent), short (five minutes), small (one node)."""

    folder: Path
    nodes: int = 3
    _family: list[children.Child] = field(default_factory=list)
    _daemons: dict[str, children.Child] = field(default_factory=dict)
    _ports: list[int] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell has who works with this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def tools(self) -> Path:
        """A folder with an nvidia-smi, for the PATH of jobs."""
        return self.folder / "tools"

    @property
    def calls(self) -> Path:
        """One line for each call of a Slurm command by way of :meth:`counting`."""
        return self.folder / "calls.log"

    def counting(self) -> Path:
        """Return a folder with Slurm's commands for a PATH; each call of one is noted in ``calls``."""
        folder = self.folder / "counting"
        folder.mkdir(exist_ok=True)
        for name in ("squeue", "sacct", "sbatch", "scancel", "scontrol", "sinfo"):
            program = shutil.which(name, path=SYSTEM_PATH)
            conf = f"export SLURM_CONF={self.environment['SLURM_CONF']}"
            _write_program(folder / name, f'#!/bin/sh\n{conf}\necho "{name} $*" >>{self.calls}\nexec {program} "$@"\n')
        return folder

    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    # -- up and down

    def start(self) -> None:
        """Start it, and wait until all nodes are idle."""
        self._ports = _free_ports(self.nodes + 3)
        for name in ("state", "spool", "log", "run", "dev", "tools"):
            (self.folder / name).mkdir(parents=True)
        _write_program(self.tools / "nvidia-smi", NVIDIA_SMI % GPUS)
        self._write_configuration()
        self._start_munge()
        self._start_accounting()
        self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        for name in self.node_names():
            self.start_node(name)
        self.wait_until_idle()

    def stop(self) -> None:
        """End it with every job."""
        if (child := self._daemons.get("slurmctld")) and child.poll() is None:
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("scancel", f"--user={user_name()}", "--full")
                children.wait_until(lambda: not self.run("squeue", "--noheader"), 15.0)
        for child in reversed(self._family):
            children.end([child], 15.0)
        # steps are in sessions of their own
        processes.send_signal(processes.marked(f"SLURM_CONF={self.environment['SLURM_CONF']}"), signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        self._start("slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"), as_name=name)

    def kill_node(self, name: str) -> None:
        """End a node's daemon and the tasks that it has started; Slurm hears of the tasks' end."""
        self._end_node(name, with_steps=False)

    def cut_power(self, name: str) -> None:
        """End everything of a node at once; Slurm hears nothing of it."""
        self._end_node(name, with_steps=True)

    def _end_node(self, name: str, *, with_steps: bool) -> None:
        self._daemons[name].kill()
        self._daemons[name].wait()
        ours = set(processes.marked(f"SLURM_CONF={self.environment['SLURM_CONF']}"))
        tasks = ours & set(processes.marked(f"SLURMD_NODENAME={name}"))
        processes.send_signal(tasks, signal.SIGSTOP)  # else one that lives a moment longer tells of the others' death
        if with_steps:
            processes.send_signal(_step_daemons(tasks), signal.SIGKILL)
        processes.send_signal(tasks, signal.SIGKILL)

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """Stop slurmctld from answering for the length of the block."""
        self._daemons["slurmctld"].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._daemons["slurmctld"].send_signal(signal.SIGCONT)

    def take_down(self, name: str) -> None:
        """Take a node down by Slurm: its jobs are ended, and queued again if they may be."""
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=its power is gone")

    def bring_up(self, name: str) -> None:
        """Resume a node that was taken down; one whose daemon answers comes back by itself."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self.wait_until_idle()

    def revive_node(self, name: str) -> None:
        """Start a node again that was lost, and wait until it can be used."""
        self.start_node(name)
        if not children.wait_until(lambda: self.state_of(name) in ("idle", "mixed", "allocated"), START_LIMIT, 0.3):
            raise AssertionError(f"node {name} is {self.state_of(name)}")

    def state_of(self, name: str) -> str:
        """Return a node's state as Slurm shows it."""
        return self.run("sinfo", "--noheader", "--nodes", name, "-o", "%T").split("\n", maxsplit=1)[0].strip()

    def wait_until_idle(self) -> None:
        """Wait until no node does anything."""
        states: list[str] = []

        def idle() -> bool:
            with contextlib.suppress(subprocess.SubprocessError):
                states[:] = self.run("sinfo", "--noheader", "-N", "-o", "%T").split()
            return bool(states) and set(states) == {"idle"}

        if not children.wait_until(idle, START_LIMIT, 0.2):
            raise AssertionError(f"Slurm's nodes are {states}; {self._last_words()}")

    # -- commands

    def run(self, *argv: str) -> str:
        """Run one of Slurm's commands and give what it prints."""
        env = {**os.environ, **self.environment}
        return subprocess.run(argv, capture_output=True, text=True, check=True, env=env, timeout=120).stdout.strip()

    def jobs(self) -> list[str]:
        """Return the ids of all jobs that wait or run."""
        return self.run("squeue", "--noheader", "-o", "%A").split()

    # -- parts

    def _start(self, program: str, *arguments: str, as_name: str = "") -> children.Child:
        path = shutil.which(program, path=SYSTEM_PATH)
        assert path is not None, program
        name = as_name or program
        env = {**os.environ, **self.environment, "PATH": SYSTEM_PATH}
        child = children.start([*_loopback_host(), path, *arguments], self.folder / "log" / f"{name}.out", env)
        self._family.append(child)
        self._daemons[name] = child
        return child

    def _start_munge(self) -> None:
        key, run = self.folder / "munge.key", self.folder / "run"
        subprocess.run([str(shutil.which("mungekey", path=SYSTEM_PATH)), "--keyfile", str(key)], check=True)
        own = [f"--pid-file={run}/munged.pid", f"--seed-file={run}/munged.seed", f"--log-file={self.folder}/log/munged.log"]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run}/munge.sock", *own)
        self._wait((run / "munge.sock").exists, "munged listens")

    def _start_accounting(self) -> None:
        data, run = self.folder / "mysql", self.folder / "run"
        data.mkdir()
        install = ["--no-defaults", f"--user={user_name()}", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run(
            [str(shutil.which("mysql_install_db", path=SYSTEM_PATH)), *install, "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        network = [
            "--bind-address=127.0.0.1",
            f"--port={self._ports[2]}",
            f"--socket={run}/my.sock",
            f"--pid-file={run}/my.pid",
        ]
        modest = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"]
        self._start("mariadbd", "--no-defaults", f"--user={user_name()}", f"--datadir={data}", *network, *modest)
        self._wait(lambda: self._sql("select 1"), "mariadbd answers")
        grants = "".join(
            f"create user slurm@'{host}' identified by 'x'; grant all on slurm_acct_db.* to slurm@'{host}';"
            for host in ("127.0.0.1", "localhost")
        )
        assert self._sql(f"create database slurm_acct_db; {grants}")
        self._start("slurmdbd", "-D")
        self._wait(lambda: _succeeds(self, "sacctmgr", "--noheader", "list", "cluster"), "slurmdbd answers")
        self.run("sacctmgr", "--immediate", "add", "cluster", "lab")

    def _sql(self, statement: str) -> bool:
        argv = ["mysql", "--no-defaults", "-S", str(self.folder / "run" / "my.sock"), "-uroot", "-e", statement]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def _wait(self, condition: children.Callable[[], bool], what: str) -> None:
        if not children.wait_until(condition, START_LIMIT, 0.1):
            raise AssertionError(f"not in {START_LIMIT:g} s: {what}; {self._last_words()}")

    def _last_words(self) -> str:
        logs = sorted((self.folder / "log").iterdir())
        return "\n".join(f"{log.name}: {children.tail(log, 3)}" for log in logs)

    def _write_configuration(self) -> None:
        folder, host = self.folder, "localhost" if _loopback_host() else socket.gethostname().partition(".")[0]
        controller, accounting, database, *daemons = self._ports
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory={MEMORY} "
            f"Gres=gpu:{GPUS} State=UNKNOWN"
            for name, port in zip(self.node_names(), daemons, strict=True)
        )
        words = {"folder": folder, "host": host, "controller": controller, "accounting": accounting, "database": database}
        words.update(nodes=nodes, all_nodes=",".join(self.node_names()), user=user_name())
        (folder / "slurm.conf").write_text(SLURM_CONF.format(**words))
        (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**words))
        (folder / "slurmdbd.conf").chmod(0o600)
        for number in range(GPUS):  # device files must be there; these are /dev/null
            os.mknod(folder / "dev" / f"gpu{number}", 0o600 | 0o020000, os.makedev(1, 3))
        devices = f"File={folder}/dev/gpu[0-{GPUS - 1}]"
        (folder / "gres.conf").write_text("".join(f"NodeName={name} Name=gpu {devices}\n" for name in self.node_names()))


SLURM_CONF = """ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=cred_expire=20,socket={folder}/run/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerNode=1000
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=60
InactiveLimit=0
MinJobAge=60
SchedulerParameters=bf_interval=2,sched_min_interval=100000,requeue_delay=1
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/run/munge.sock
AccountingStoreFlags=job_comment
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
{nodes}
PartitionName=batch Nodes={all_nodes} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={all_nodes} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes={all_nodes} MaxTime=5 State=UP PriorityTier=1
PartitionName=small Nodes={all_nodes} MaxNodes=1 MaxTime=INFINITE State=UP PriorityTier=1
"""

SLURMDBD_CONF = """AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
CommunicationParameters=NoInAddrAny
SlurmUser={user}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=x
StorageLoc=slurm_acct_db
"""


def what_is_missing() -> str:
    """Return why there can be no cluster here; "" if there can."""
    if os.geteuid() != 0:
        return "a Slurm of several nodes on one machine is started by root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    return f"Slurm is not installed ({', '.join(missing)} missing); scripts/system.sh installs it" if missing else ""


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Yield the one cluster of the session; what tests leave in its queue must be gone when they end."""
    if missing := what_is_missing():
        pytest.skip(missing)
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _step_daemons(tasks: set[int]) -> set[int]:
    """Return the step daemons that are parents of processes."""
    found = set()
    for pid in tasks:
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes():
                found.add(parent)
    return found


def _loopback_host() -> list[str]:
    """Return what a daemon is started by so that it listens on loopback only: it listens on the address of its host's name."""
    try:
        address = socket.gethostbyname(socket.gethostname().partition(".")[0])
    except OSError:
        address = ""
    return [] if address == "127.0.0.1" else ["unshare", "--uts", "sh", "-c", 'hostname localhost; exec "$0" "$@"']


def _succeeds(cluster: SlurmCluster, *argv: str) -> bool:
    try:
        cluster.run(*argv)
    except subprocess.SubprocessError:
        return False
    return True


def user_name() -> str:
    """Return the name of this user."""
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback that are free now, below those that the kernel hands out."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found
