"""TF_CONFIG of every task, where tasks are placed, how they are counted, and who decides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muster.core.job import Roles, TrainingJob
from muster.core.placeholder import Bindings, resolve
from muster.core.plan import NodePlan, RankPlan
from muster.launchers import LAUNCHERS, launcher_of, tensorflow

LAUNCHER = LAUNCHERS["tensorflow"]


def job_of(nodes: int = 2, **fields: Any) -> TrainingJob:
    workers, servers = fields.pop("workers", nodes), fields.pop("servers", 0)
    roles = Roles(workers=workers, servers=servers, chief=fields.pop("chief", False), evaluator=fields.pop("evaluator", False))
    known: dict[str, Any] = {"name": "x", "framework": "tensorflow", "entry_script": "train.py", "roles": roles}
    return TrainingJob(**{**known, "node_count": nodes, **fields})


def bindings(plan: tuple[NodePlan, ...]) -> Bindings:
    """Find the ports of every node as an agent does: from the wish upwards, all different."""
    ports = tuple({wish.name: wish.near + index for index, wish in enumerate(node.ports)} for node in plan)
    hosts = tuple(f"10.0.0.{node.node}" for node in plan)
    return Bindings(hosts=hosts, ports=ports, local={"interpreter": "/py", "interface": "eth7"})


def ranks(plan: tuple[NodePlan, ...]) -> list[RankPlan]:
    return sorted((rank for node in plan for rank in node.ranks), key=lambda rank: rank.rank)


def environment(rank: RankPlan, plan: tuple[NodePlan, ...]) -> dict[str, str]:
    return {name: resolve(text, bindings(plan)) for name, text in rank.env}


def configs(job: TrainingJob) -> list[dict[str, Any]]:
    """Return every task's TF_CONFIG, by rank."""
    plan = LAUNCHER.plan(job)
    return [json.loads(environment(rank, plan)["TF_CONFIG"]) for rank in ranks(plan)]


def placed(job: TrainingJob) -> list[list[str]]:
    return [[rank.role for rank in node.ranks] for node in LAUNCHER.plan(job)]


def test_the_config_is_of_the_documented_shape() -> None:
    cluster = {"ps": ["10.0.0.0:2222"], "worker": ["10.0.0.1:2222"]}
    assert configs(job_of(workers=1, servers=1)) == [
        {"cluster": cluster, "task": {"type": "worker", "index": 0}, "environment": "cloud"},
        {"cluster": cluster, "task": {"type": "ps", "index": 0}, "environment": "cloud"},
    ]


@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("roles", [(2, 1), (3, 0), (3, 3), (6, 2)])
@pytest.mark.parametrize("chief", [False, True])
@pytest.mark.parametrize("evaluator", [False, True])
def test_every_task_sees_the_same_cluster_and_itself_in_it(
    nodes: int, roles: tuple[int, int], chief: bool, evaluator: bool
) -> None:
    job = job_of(nodes, workers=roles[0], servers=roles[1], chief=chief, evaluator=evaluator)
    plan, seen = LAUNCHER.plan(job), configs(job)
    clusters = [config["cluster"] for config in seen]
    assert all(list(config) == ["cluster", "task", "environment"] for config in seen)
    assert clusters == [clusters[0]] * len(seen)
    wanted = {"ps": roles[1], "chief": int(chief), "worker": roles[0]}
    assert {role: len(hosts) for role, hosts in clusters[0].items()} == {role: count for role, count in wanted.items() if count}
    addresses = [address for hosts in clusters[0].values() for address in hosts]
    assert len(set(addresses)) == len(addresses)
    node_of = {rank.rank: node.node for node in plan for rank in node.ranks}
    for rank, config in zip(ranks(plan), seen, strict=True):
        task = config["task"]
        assert task["type"] == rank.role
        if rank.role != "evaluator":
            assert clusters[0][rank.role][task["index"]].startswith(f"10.0.0.{node_of[rank.rank]}:")


def test_servers_come_first_and_the_rest_follows_round_robin() -> None:
    assert placed(job_of(2, workers=2, servers=1)) == [["worker", "ps"], ["worker"]]
    assert placed(job_of(2, workers=2, servers=2, chief=True, evaluator=True, process_count_per_node=2)) == [
        ["chief", "worker", "ps"],
        ["worker", "evaluator", "ps"],
    ]


def test_the_first_worker_of_two_with_a_server_is_on_the_next_node() -> None:
    [first, second, server] = configs(job_of(2, workers=2, servers=1))
    assert first["cluster"] == {"ps": ["10.0.0.0:2222"], "worker": ["10.0.0.1:2222", "10.0.0.0:2223"]}
    assert [config["task"]["index"] for config in (first, second, server)] == [0, 1, 0]


def test_no_node_has_more_workers_than_slots() -> None:
    for nodes, slots in ((2, 1), (2, 2), (3, 2)):
        job = job_of(nodes, workers=nodes * slots - 1, chief=True, servers=nodes * slots, process_count_per_node=slots)
        for roles in placed(job):
            assert sum(role in ("chief", "worker") for role in roles) == slots
            assert roles.count("ps") == slots


def test_rank_0_speaks_for_all_and_servers_are_counted_last() -> None:
    roles = [rank.role for rank in ranks(LAUNCHER.plan(job_of(2, workers=2, servers=2, chief=True, evaluator=True)))]
    assert roles == ["chief", "worker", "worker", "evaluator", "ps", "ps"]
    for node in LAUNCHER.plan(job_of(3, workers=6, servers=3)):
        assert [rank.local_rank for rank in node.ranks] == list(range(len(node.ranks)))


@pytest.mark.parametrize(
    ("roles", "deciding"),
    [
        ({"servers": 1}, {"worker"}),
        ({"evaluator": True}, {"worker"}),
        ({"chief": True}, {"chief", "worker"}),
        ({"chief": True, "servers": 1}, {"chief", "worker"}),
    ],
)
def test_services_decide_nothing(roles: dict[str, Any], deciding: set[str]) -> None:
    assert {rank.role for rank in ranks(LAUNCHER.plan(job_of(**roles))) if rank.decides} == deciding


@pytest.mark.parametrize(
    ("roles", "awaited"),
    [
        ({"servers": 1}, {"worker"}),
        ({"chief": True}, {"chief", "worker"}),
        ({"chief": True, "servers": 1}, {"chief"}),
    ],
)
def test_workers_that_serve_a_chief_are_not_awaited(roles: dict[str, Any], awaited: set[str]) -> None:
    plan = LAUNCHER.plan(job_of(**roles))
    assert {rank.role for rank in ranks(plan) if rank.decides and rank.awaited} == awaited


def test_servers_see_no_gpu() -> None:
    plan = LAUNCHER.plan(job_of(workers=2, servers=1, evaluator=True))
    devices = {rank.role: environment(rank, plan).get("CUDA_VISIBLE_DEVICES") for rank in ranks(plan)}
    assert devices == {"worker": None, "evaluator": None, "ps": "-1"}


def test_a_single_task_gets_no_config_and_no_port() -> None:
    plan = LAUNCHER.plan(job_of(1))
    assert plan[0].ports == ()
    assert environment(plan[0].ranks[0], plan) == {"NCCL_SOCKET_IFNAME": "eth7"}


def test_an_evaluator_stands_beside_the_cluster() -> None:
    [worker, evaluator] = configs(job_of(1, workers=1, evaluator=True))
    assert worker["cluster"] == evaluator["cluster"] == {"worker": ["10.0.0.0:2222"]}
    assert evaluator["task"] == {"type": "evaluator", "index": 0}


def test_every_task_of_a_node_wishes_for_a_port_near_2222() -> None:
    plan = LAUNCHER.plan(job_of(2, workers=2, servers=1, evaluator=True))
    assert [[(wish.name, wish.near) for wish in node.ports] for node in plan] == [
        [("ps-0", 2222), ("worker-1", 2222)],
        [("worker-0", 2222)],
    ]


def test_hostile_texts_reach_the_program_and_not_the_config(hostile: str) -> None:
    job = job_of(arguments=(hostile,), name=hostile or "x", tags={hostile: hostile})
    plan = LAUNCHER.plan(job)
    assert [resolve(text, bindings(plan)) for text in plan[0].ranks[0].argv] == ["/py", "-u", "train.py", hostile]
    assert configs(job) == configs(job_of())


@pytest.mark.parametrize("parameter", ["environment_variables", "secrets"])
def test_threads_are_a_default_where_workers_share_a_node(parameter: str) -> None:
    def threads(**fields: Any) -> list[str | None]:
        plan = LAUNCHER.plan(job_of(1, workers=2, servers=1, **fields))
        return [environment(rank, plan).get(tensorflow.THREADS) for rank in ranks(plan)]

    assert threads() == ["1", "1", None]
    assert threads(**{parameter: {tensorflow.THREADS: "4"}}) == [None, None, None]
    assert all(tensorflow.THREADS not in environment(rank, LAUNCHER.plan(job_of())) for rank in ranks(LAUNCHER.plan(job_of())))


def test_without_mpi_the_framework_chooses_the_launcher() -> None:
    assert launcher_of(job_of(distributed_backend="ps")) is LAUNCHER
    assert launcher_of(job_of(distributed_backend="nccl")) is LAUNCHER
