"""The usual way to run MPI over containers: an image with an SSH server and keys, a server per container, mpirun over SSH."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.engine import LABEL, docker, executable, remove
from benchmarks.peers import BenchError

DOCKERFILE = """\
FROM {image}
USER root
RUN apt-get update \\
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends openssh-server openssh-client \\
 && rm -rf /var/lib/apt/lists/* \\
 && mkdir -p /run/sshd /root/.ssh && chmod 700 /root/.ssh \\
 && ssh-keygen -A && ssh-keygen -q -t ed25519 -N "" -f /root/.ssh/id_ed25519 \\
 && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys \\
 && printf 'Host *\\n  StrictHostKeyChecking no\\n  UserKnownHostsFile /dev/null\\n  LogLevel ERROR\\n' > /root/.ssh/config
COPY *.py /bench/
CMD ["/usr/sbin/sshd", "-D"]
"""
WAIT = 'for host in {hosts}; do until (: > /dev/tcp/$host/22) 2>/dev/null; do sleep 0.02; done; done; exec "$@"'
MPI = ("OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")


@dataclass
class SshContainers:
    """Containers of one image in a network of their own."""

    image: str
    count: int
    name: str
    options: tuple[str, ...] = ("--shm-size", "2g")
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _network: str = ""

    @property
    def hosts(self) -> list[str]:
        return [f"node-{index}" for index in range(self.count)]

    @property
    def containers(self) -> list[str]:
        return [f"{self._network}-{host}" for host in self.hosts]

    def start(self) -> None:
        """Start all at once, as compose would."""
        self._network = f"muster-bench-{self.name}-{os.getpid()}-{next(self._numbers)}"
        docker("network", "create", "--label", LABEL, self._network)
        argvs = [self._run(host, container) for host, container in zip(self.hosts, self.containers, strict=True)]
        started = [subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for argv in argvs]
        said = [process.communicate(timeout=120)[1] for process in started]
        if any(process.returncode for process in started):
            raise BenchError(f"docker run failed:\n{''.join(said)}")

    def mpirun(self, flags: Sequence[str], program: Sequence[str]) -> str:
        """Wait until every SSH server answers, and run a program with one rank in each; gives what it printed."""
        hosts = ",".join(f"{host}:1" for host in self.hosts)
        mpirun = ["mpirun", "--host", hosts, "-np", str(self.count), *flags, *program]
        wait = ["bash", "-c", WAIT.format(hosts=" ".join(self.hosts)), "bash", *mpirun]
        environ = [word for variable in MPI for word in ("--env", variable)]
        return docker("exec", *environ, self.containers[0], *wait)

    def remove(self) -> None:
        """Remove them and their network."""
        if self._network:
            remove(containers=self.containers, networks=[self._network])

    def _run(self, host: str, container: str) -> list[str]:
        place = ["--name", container, "--hostname", host, "--network", self._network, "--network-alias", host]
        return [executable(), "run", "--detach", "--init", "--label", LABEL, *place, *self.options, self.image]
