"""What mpirun and all that it starts on a node are told, and which rank a shim is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab import assignment_of, plan_of
from mpi_lab import mpi_plan
from muster.core.paths import NodePaths
from muster.core.placeholder import Bindings
from muster.core.plan import REMOTE_SHELL
from muster.node.ranks.spawner import SHIM_COMMAND, SpawnerSetup

HERE = {
    "interpreter": sys.executable,
    "interface": "eth0",
    "network": "10.0.0.0/24",
    "common_interface": "",
    "scratch": "",
    "workdir": "/w",
}


def side(root: Path, node: int = 1, variables: dict[str, str] | None = None) -> SpawnerSetup:
    plan = mpi_plan("pass", "s3://b/p", 2, 2, variables=variables, mpi_arguments=("-x", "HANDED"))
    pythons = {"interpreter": sys.executable, "muster_python": sys.executable}
    assignment = assignment_of(plan, job_id="j", node=node, addresses=("a", "b"), **pythons)
    bindings = Bindings(hosts=("10.0.0.1", "10.0.0.2"), ports=({}, {}), local=HERE)
    (root / "work").mkdir(parents=True, exist_ok=True)
    found = SpawnerSetup(assignment, NodePaths(root=root), bindings, {"TOKEN": "secret"})
    found.write_remote_shell()
    return found


def test_a_batch_systems_variables_are_kept_from_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "PBS_NODEFILE", "KEPT"):
        monkeypatch.setenv(name, "x")
    env = side(tmp_path).environment("spawner")
    assert not {"SLURM_JOB_ID", "PBS_NODEFILE"} & env.keys()
    assert env["KEPT"] == "x"


def test_tools_have_the_remote_shell_first_and_no_secret(tmp_path: Path) -> None:
    env = side(tmp_path, variables={"MINE": "1", "PATH": "/mine"}).environment("spawner")
    assert env["PATH"] == f"{tmp_path / 'tools'}:/mine"
    assert env["MINE"] == "1"
    assert env["OMPI_MCA_btl_tcp_if_include"] == "10.0.0.0/24"
    assert "PRTE_MCA_prte_if_include" not in env, "empty: the nodes call the interface differently"
    assert "TOKEN" not in env


def test_every_tool_has_a_scratch_folder_of_its_own(tmp_path: Path) -> None:
    found = side(tmp_path)
    folders = [found.environment(which)["TMPDIR"] for which in ("spawner", "shell")]
    assert len(set(folders)) == 2
    assert all(Path(folder).is_dir() for folder in folders)


def test_the_shims_command_stands_any_folder(weird_tmp_path: Path) -> None:
    env = side(weird_tmp_path).environment("shell")
    env["MUSTER_SHIM"] = str(weird_tmp_path / "say.py")
    Path(env["MUSTER_SHIM"]).write_text("import sys; print(sys.argv[1:])", encoding="utf-8")
    said = subprocess.run(SHIM_COMMAND, env=env, capture_output=True, text=True, check=True).stdout
    assert said == f"{[str(weird_tmp_path)]}\n"


def test_the_remote_shell_stands_any_folder(weird_tmp_path: Path) -> None:
    """Nobody listens here, so it fails where it looks for the agent's socket, and not before."""
    env = side(weird_tmp_path).environment("shell")
    done = subprocess.run([REMOTE_SHELL, "node-0", "true"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 255
    assert done.stderr == "muster-remote-shell: the agent of this node does not answer: No such file or directory\n"


def test_a_shim_is_the_rank_that_mpirun_says_where_it_landed(tmp_path: Path) -> None:
    told = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "HANDED": "on", "PATH": "/elsewhere", "PMIX_X": "y"}
    spec = side(tmp_path).rank_spec(told)
    assert (spec.rank, spec.local_rank) == (0, 1)
    assert (spec.env["MUSTER_RANK"], spec.env["MUSTER_LOCAL_RANK"], spec.env["MUSTER_NODE"]) == ("0", "1", "1")
    assert (spec.env["HANDED"], spec.env["PMIX_X"], spec.env["TOKEN"]) == ("on", "y", "secret")
    assert "/elsewhere" not in spec.env["PATH"]
    assert not [name for name in spec.env if name.startswith("MUSTER_SHIM")]


@pytest.mark.parametrize("rank", ["4", "-1", "x", None])
def test_a_process_that_is_no_rank_is_refused(tmp_path: Path, rank: str | None) -> None:
    with pytest.raises(ValueError):
        side(tmp_path).rank_spec({} if rank is None else {"OMPI_COMM_WORLD_RANK": rank})


def test_other_plans_have_no_starter() -> None:
    assert plan_of("pass", "s3://b/p").spawner is None
