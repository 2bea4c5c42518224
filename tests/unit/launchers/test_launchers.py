"""What every launcher lays out, and which variables it keeps for itself."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

import pytest

from muster.core.errors import RequestError
from muster.core.job import Roles, TrainingJob
from muster.core.placeholder import Bindings, Here, resolve
from muster.core.plan import NodePlan
from muster.launchers import LAUNCHERS, check_job, pytorch, tensorflow
from muster.request.frameworks import FRAMEWORKS

BINDINGS = Bindings(
    hosts=("10.0.0.1", "10.0.0.2"),
    ports=(defaultdict(lambda: 2222, master=6107), defaultdict(lambda: 2222)),
    local={
        "interpreter": "/py",
        "interface": "eth7",
        "network": "10.0.0.0/24",
        "common_interface": "eth7",
        "scratch": "",
        "local_rank": "1",
        "node": "0",
    },
)
STARTED = ("mpi", "torchrun")  # whose spawners have most of the variables
BY_NODE = [name for name in LAUNCHERS if name != "tensorflow"]  # which deals its tasks out to the nodes one by one


def job_of(framework: str = "pytorch", nodes: int = 2, processes: int = 2) -> TrainingJob:
    return TrainingJob(
        name="x",
        framework=framework,
        entry_script="train.py",
        node_count=nodes,
        process_count_per_node=processes,
        roles=Roles(workers=nodes * processes, servers=1) if framework == "tensorflow" else Roles(),
    )


def variables(nodes: tuple[NodePlan, ...]) -> list[Mapping[str, str]]:
    """Return the variables of every rank as it will see them."""
    return [{name: resolve(text, BINDINGS) for name, text in rank.env} for node in nodes for rank in node.ranks]


def argv(job: TrainingJob) -> list[str]:
    plan = LAUNCHERS[job.framework].plan(job)
    return [resolve(text, BINDINGS) for text in plan[0].ranks[0].argv]


@pytest.mark.parametrize("framework", BY_NODE)
@pytest.mark.parametrize(("nodes", "processes"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_ranks_are_counted_node_by_node(framework: str, nodes: int, processes: int) -> None:
    plan = LAUNCHERS[framework].plan(job_of(framework, nodes, processes))
    assert [node.node for node in plan] == list(range(nodes))
    assert [rank.rank for node in plan for rank in node.ranks] == list(range(nodes * processes))
    assert [[rank.local_rank for rank in node.ranks] for node in plan] == [list(range(processes))] * nodes
    assert all(rank.decides for node in plan for rank in node.ranks)


@pytest.mark.parametrize("framework", [name for name in LAUNCHERS if name not in STARTED])
def test_no_variable_is_set_that_is_neither_owned_nor_a_default(framework: str) -> None:
    launcher = LAUNCHERS[framework]
    names = {name for rank in variables(launcher.plan(job_of(framework))) for name in rank}
    assert names - {pytorch.THREADS, tensorflow.THREADS} == launcher.reserved


@pytest.mark.parametrize("framework", LAUNCHERS)
@pytest.mark.parametrize("parameter", ["environment_variables", "secrets"])
def test_an_owned_variable_is_refused(framework: str, parameter: str) -> None:
    for name in LAUNCHERS[framework].reserved:
        taken = dataclasses.replace(job_of(framework), **{parameter: {name: "x"}})
        for refuse in (check_job, LAUNCHERS[framework].plan):
            with pytest.raises(RequestError, match=f"{parameter} sets {name}, but the {framework} launcher owns"):
                refuse(taken)


def test_every_framework_has_a_launcher() -> None:
    assert set(LAUNCHERS) == {*FRAMEWORKS, "torchrun"}
    assert all(name == launcher.name for name, launcher in LAUNCHERS.items())


@pytest.mark.parametrize("framework", LAUNCHERS)
def test_a_script_runs_under_the_environments_interpreter(framework: str, hostile: str) -> None:
    job = dataclasses.replace(job_of(framework), arguments=("--x", hostile))
    assert argv(job) == ["/py", "-u", "train.py", "--x", hostile]


@pytest.mark.parametrize("framework", LAUNCHERS)
def test_a_command_is_kept_as_it_is(framework: str, hostile: str) -> None:
    job = dataclasses.replace(job_of(framework), entry_script="", command=("prog", hostile))
    assert argv(job) == ["prog", hostile]


def test_a_script_is_never_taken_for_an_option() -> None:
    assert argv(dataclasses.replace(job_of(), entry_script="-c.py")) == ["/py", "-u", "./-c.py"]


def test_pytorch_ranks_find_each_other() -> None:
    seen = variables(LAUNCHERS["pytorch"].plan(job_of()))
    assert seen[3] == {
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "6107",
        "WORLD_SIZE": "4",
        "NODE_RANK": "1",
        "RANK": "3",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "eth7",
        "NCCL_SOCKET_IFNAME": "eth7",
        "OMP_NUM_THREADS": "1",
    }
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"], rank["WORLD_SIZE"]) for rank in seen}) == 1


def test_only_node_0_is_asked_for_the_port() -> None:
    plan = LAUNCHERS["pytorch"].plan(job_of())
    assert [[(wish.name, wish.near) for wish in node.ports] for node in plan] == [[("master", 6105)], []]
    assert [node.ports for node in LAUNCHERS["any"].plan(job_of("any"))] == [(), ()]


def test_the_network_is_the_users_choice_or_the_nodes() -> None:
    chosen = dataclasses.replace(job_of(), network_interface="ib0")
    assert variables(LAUNCHERS["pytorch"].plan(chosen))[0]["NCCL_SOCKET_IFNAME"] == "ib0"
    env = dict(LAUNCHERS["pytorch"].plan(job_of())[0].ranks[0].env)
    assert env["GLOO_SOCKET_IFNAME"] == (Here(here="interface"),)


@pytest.mark.parametrize("parameter", ["environment_variables", "secrets"])
def test_threads_are_a_default_for_several_processes_only(parameter: str) -> None:
    said = dataclasses.replace(job_of(), **{parameter: {"OMP_NUM_THREADS": "8"}})
    assert "OMP_NUM_THREADS" not in variables(LAUNCHERS["pytorch"].plan(said))[0]
    assert "OMP_NUM_THREADS" not in variables(LAUNCHERS["pytorch"].plan(job_of(processes=1)))[0]


def test_any_program_is_told_nothing() -> None:
    assert variables(LAUNCHERS["any"].plan(job_of("any"))) == [{}] * 4
