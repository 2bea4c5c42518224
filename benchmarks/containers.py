"""Containers: what images, containers and MPI cost through Muster, beside docker build, docker run and mpirun over SSH."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import engine
from benchmarks.ours import HOME, Ours, seconds_to_line
from benchmarks.peers import ROOT, BenchError
from benchmarks.report import Goal, Row, row
from benchmarks.rounds import in_turn, timed
from benchmarks.sshd_recipe import DOCKERFILE, SshContainers
from muster.launchers.mpi import DEFAULTS

JOBS = Path(__file__).resolve().parent / "jobs"
LINE = "the first line"
PACKAGES = ("requests==2.32.5",)
MPI_PACKAGES = ("mpi4py==4.1.2",)
HELLO, ALLREDUCE = "mpi_hello.py", "allreduce.py"
RESOLVES = 15
ROUNDS = 7
STEP_ROUNDS = 11
STEPS, FLOATS = 100_000, 16_384  # eight seconds or so; 64 KB
_MCA = "OMPI_MCA_"  # the peer's flags are what Muster tells mpirun by variables
_TOLD = tuple((name.removeprefix(_MCA), str(value)) for name, value in DEFAULTS if name.startswith(_MCA))
MPI_FLAGS = ("--bind-to", "none", "--map-by", "slot", *(word for told in _TOLD for word in ("--mca", *told)))
ETHERNET = ("--mca", "btl_tcp_if_include", "eth0", "--mca", "oob_tcp_if_include", "eth0")
RESOLVING = ("image_resolve", "code_change_builds")
ROWS = (*RESOLVING, "first_line", "mpi_hello", "allreduce_steps")
GOALS = {
    "image_resolve": Goal(at_most=0.3),
    "code_change_builds": Goal(at_most=0, of="ours"),
    "first_line": Goal(at_most=2.0),
    "mpi_hello": Goal(at_most=0.7),
    "allreduce_steps": Goal(at_least=0.98),
}


def measure(wanted: Sequence[str]) -> list[Row]:
    """Measure the wanted rows; store and images are there before anything is timed."""
    parent = ROOT / ".muster" / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="containers-", dir=parent))
    base = engine.base_image()
    try:
        with engine.store(scratch / "store") as endpoint:
            ours = Ours(folder=scratch, endpoint=endpoint, target={"type": "docker", "base_image": base})
            return [made for name in wanted for made in _Containers(ours=ours, base=base).rows(name)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Containers:
    ours: Ours
    base: str

    def rows(self, name: str) -> Iterator[Row]:
        """Make one row."""
        makers: dict[str, Callable[[], Row]] = {each: getattr(self, each) for each in ROWS}
        yield makers[name]()

    # -- images

    def image_resolve(self) -> Row:
        """From the wished packages to the image's name, and the same Dockerfile to the same image by docker build."""
        self._resolve(PACKAGES)
        with self._context() as context:
            cached = in_turn([timed(lambda how=how: _docker_build(context, self.base, how)) for how in BUILDERS], 3)  # type: ignore[misc]
            quickest = min(zip(cached, BUILDERS, strict=True))[1]
            contenders = [timed(lambda: self._resolve(PACKAGES)), timed(lambda: _docker_build(context, self.base, quickest))]
            mine, theirs = in_turn(contenders, RESOLVES)
        engine.remove(images=[PEER_IMAGE])
        return row("image_resolve", "s", mine, theirs, f"cached docker build ({BUILDERS[quickest]})")

    def code_change_builds(self) -> Row:
        """Images that are built for runs of changed code, after the first run of an environment that nobody had."""
        source = self.ours.folder / "changing"
        source.mkdir()
        wishes = {"source_directory": str(source), "entry_script": "say.py", "build_steps": [f": {source}"]}
        job = self.ours.job("changing", framework="any", pip_packages=list(PACKAGES), **wishes)
        built = [self._built_by(job, source, number) for number in range(4)]
        engine.remove(images=built[0])
        if len(built[0]) != 1:
            raise BenchError(f"the first run of a new environment built {built[0]}")
        return row("code_change_builds", "builds", [float(len(names)) for names in built[1:]])

    def _built_by(self, job: Path, source: Path, number: int) -> list[str]:
        """Run new code; gives the names of the images that were built for it."""
        (source / "say.py").write_text(f"import requests\nprint('code {number}')\n", encoding="utf-8")
        said = self.ours.run(job)
        if f"code {number}" not in said:
            raise BenchError(f"the run did not run the changed code:\n{said}")
        return re.findall(r"building image (\S+):", said)

    def _resolve(self, packages: Sequence[str], **wishes: Any) -> str:
        """Return the name of the image of these packages, as a run does it."""
        from muster.packaging.image import image

        ref = self._ref(packages, **wishes)
        return image.ensure_image(_client(), ref, base_image=self.base, cache=self.ours.folder / HOME, log=_quiet)

    def _ref(self, packages: Sequence[str], **wishes: Any) -> Any:
        from muster.packaging.environment import lock

        ref = lock.lock_packages(packages, python=sys.executable, cache=self.ours.folder / HOME, log=_quiet)
        return dataclasses.replace(ref, **wishes)

    @contextmanager
    def _context(self) -> Iterator[Path]:
        """Yield the folder that the image was built from."""
        from muster.packaging.image.build_context import BuildContext, local_platform
        from muster.packaging.image.recipe import recipe_of

        wanted = recipe_of(self._ref(PACKAGES), self.base, "")
        assert wanted is not None
        with tempfile.TemporaryDirectory(dir=self.ours.folder) as folder:
            BuildContext(folder=Path(folder), cache=self.ours.folder / HOME, platform=local_platform(), log=_quiet).fill(wanted)
            yield Path(folder)

    # -- containers

    def first_line(self) -> Row:
        """From the command to the first line that rank 0, or the container, prints."""
        job = self.ours.job("first-line", framework="any", node_count=2, command=["echo", LINE])
        run = [engine.executable(), "run", "--rm", "--label", engine.LABEL, self.base, "echo", LINE]
        contenders = [lambda: self.ours.first_line(job, LINE), lambda: seconds_to_line(run, LINE)]
        mine, theirs = in_turn(contenders, ROUNDS)
        return row("first_line", "s", mine, theirs, "docker run of one container")

    # -- MPI

    def mpi_hello(self) -> Row:
        """Three containers with a rank each, from nothing to nothing."""
        job = self._mpi_job("hello", HELLO, 3)
        peer = SshContainers(image=self._ssh_image(), count=3, name="hello")
        mine, theirs = in_turn([timed(lambda: _receive(self.ours.run(job))), timed(lambda: _recipe(peer))], ROUNDS)
        engine.remove(images=[peer.image])
        return row("mpi_hello", "s", mine, theirs, "containers with sshd, mpirun over SSH")

    def allreduce_steps(self) -> Row:
        """All-reduce steps of two ranks in two containers; the peer's containers stay over all rounds."""
        words = [str(STEPS), str(FLOATS)]
        job = self._mpi_job("allreduce", ALLREDUCE, 2, arguments=words)
        peer = SshContainers(image=self._ssh_image(), count=2, name="allreduce")
        program = [PYTHON, f"/bench/{ALLREDUCE}", *words]
        try:
            peer.start()
            contenders = [
                lambda: _rate(self.ours.run(job)),
                lambda: _rate(peer.mpirun((*MPI_FLAGS, *ETHERNET), program)),
            ]
            mine, theirs = in_turn(contenders, STEP_ROUNDS)
        finally:
            peer.remove()
        engine.remove(images=[peer.image])
        return row("allreduce_steps", "steps/s", mine, theirs, "mpirun over SSH, same image and flags")

    def _mpi_job(self, name: str, script: str, nodes: int, **parameters: Any) -> Path:
        source = self.ours.folder / f"source-{name}"
        source.mkdir()
        shutil.copy(JOBS / script, source)
        wishes = {"source_directory": str(source), "entry_script": script, "pip_packages": list(MPI_PACKAGES)}
        return self.ours.job(name, framework="mpi", node_count=nodes, **wishes, **parameters)

    def _ssh_image(self) -> str:
        """Return the image that Muster's ranks run in, with an SSH server and keys in it."""
        image = self._resolve(MPI_PACKAGES, mpi=True)
        files = {script: (JOBS / script).read_text(encoding="utf-8") for script in (HELLO, ALLREDUCE)}
        return engine.build("muster-bench/sshd", DOCKERFILE.format(image=image), files, self.ours.folder)


PYTHON = "/opt/muster/env/bin/python"
PEER_IMAGE = "muster-bench/cached"
BUILDERS = {"0": "classic builder", "1": "BuildKit"}


def _docker_build(context: Path, base: str, buildkit: str) -> None:
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", "BASE_USER=root"]
    engine.docker("build", "--quiet", "--tag", PEER_IMAGE, *arguments, str(context), environ={"DOCKER_BUILDKIT": buildkit})


def _client() -> Any:
    import docker

    return docker.from_env().api


def _quiet(line: str) -> None:
    """Take what is told of a step and say nothing."""


def _recipe(peer: SshContainers) -> None:
    try:
        peer.start()
        _receive(peer.mpirun((*MPI_FLAGS, *ETHERNET), [PYTHON, f"/bench/{HELLO}"]))
    finally:
        peer.remove()


def _receive(text: str) -> None:
    if "of 3 on" not in text:
        raise BenchError(f"three ranks did not meet:\n{text}")


def _rate(text: str) -> float:
    found = re.search(r"steps per second: ([0-9.]+)", text)
    if found is None:
        raise BenchError(f"no rate was said:\n{text}")
    return float(found[1])
