"""What mpirun is told, and what it leaves to the agents."""

from __future__ import annotations

import pytest

from muster.core.errors import RequestError
from muster.core.job import TrainingJob
from muster.core.placeholder import Here
from muster.core.plan import NodePlan, Spawner
from muster.launchers import launcher_of, mpi


def plan(*arguments: str, framework: str = "mpi", variables: dict[str, str] | None = None) -> tuple[NodePlan, ...]:
    job = TrainingJob(
        name="x",
        framework=framework,
        entry_script="train.py",
        node_count=3,
        process_count_per_node=2,
        distributed_backend="mpi",
        mpi_arguments=arguments,
        environment_variables=variables or {},
    )
    return launcher_of(job).plan(job)


def spawner(*arguments: str, variables: dict[str, str] | None = None) -> Spawner:
    found = plan(*arguments, variables=variables)[0].starter
    assert found is not None
    return found


OURS = ("mpirun", "-np", "6", "-H", "node-0:2,node-1:2,node-2:2", "--map-by", "slot", "--bind-to", "none")


def test_node_0_alone_has_the_starter() -> None:
    nodes = plan()
    assert [node.starter is None for node in nodes] == [False, True, True]
    assert [rank.rank for node in nodes for rank in node.ranks] == list(range(6))
    assert spawner().argv == OURS


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        (("-np", "4"), ("-np", "6")),
        (("--host", "node-1:4"), ("-H", "node-0:2,node-1:2,node-2:2")),
        (("--hostfile", "hosts"), ("-H", "node-0:2,node-1:2,node-2:2")),
        (("--map-by", "ppr:1:node"), ("--map-by", "slot")),
        (("--map-by=node",), ("--map-by", "slot")),
        (("-npernode", "2"), ("--map-by", "slot")),
        (("--bind-to", "core"), ("--bind-to", "none")),
    ],
)
def test_what_the_user_says_replaces_ours(given: tuple[str, ...], gone: tuple[str, ...]) -> None:
    argv = spawner(*given).argv
    assert argv[-len(given) :] == given
    left = argv[: -len(given)]
    assert gone[0] not in left
    assert len(left) == len(OURS) - 2


def test_other_arguments_follow_ours() -> None:
    assert spawner("--mca", "btl", "self,tcp", "--report-bindings").argv == (
        *OURS,
        "--mca",
        "btl",
        "self,tcp",
        "--report-bindings",
    )


def test_exported_variables_reach_the_ranks() -> None:
    assert spawner("-x", "ONE", "-x", "TWO=2", "--x", "THREE", "-x").keeps == (*mpi.KEPT, "ONE", "TWO", "THREE")


def test_a_default_gives_way_to_the_users_variable() -> None:
    names = [name for name, _ in spawner(variables={"OMPI_MCA_pml": "ucx"}).env]
    assert "OMPI_MCA_pml" not in names
    assert "OMPI_MCA_btl" in names


@pytest.mark.parametrize(
    "name", ["OMPI_COMM_WORLD_RANK", "OMPI_MCA_plm_rsh_agent", "NCCL_SOCKET_IFNAME", "HOROVOD_CONTROLLER", "MASTER_ADDR"]
)
def test_what_mpi_owns_can_not_be_set(name: str) -> None:
    with pytest.raises(RequestError, match=name):
        plan(variables={name: "x"})


def test_torch_finds_its_rendezvous_and_the_place_where_a_rank_landed() -> None:
    nodes = plan(framework="pytorch")
    assert [wish.name for wish in nodes[0].ports] == ["master"]
    env = dict(nodes[2].ranks[1].env)
    assert (env["RANK"], env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"]) == ("5", "6", "2")
    assert env["LOCAL_RANK"] == (Here(here="local_rank"),)
    assert env["NODE_RANK"] == (Here(here="node"),)
    assert env["GLOO_SOCKET_IFNAME"] == (Here(here="interface"),)
    assert "MASTER_ADDR" not in dict(plan()[0].ranks[0].env)
