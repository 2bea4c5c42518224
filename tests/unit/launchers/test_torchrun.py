"""What torchrun's launcher lays out: a torchrun of each node's own, which meets the others at node 0."""

from __future__ import annotations

import dataclasses

from muster.core.job import TrainingJob
from muster.core.placeholder import Bindings, resolve
from muster.launchers import launcher_of, pytorch, torchrun

JOB = TrainingJob(
    name="x",
    framework="pytorch",
    entry_script="train.py",
    node_count=3,
    min_node_count=2,
    process_count_per_node=2,
    distributed_backend="gloo",
)
BINDINGS = Bindings(
    hosts=("10.0.0.1", "10.0.0.2", "10.0.0.3"),
    ports=({"rendezvous": 29401}, {}, {}),
    local={"interpreter": "/py", "attempt": "x-g1-a1", "round": "2", "nodes": "2", "interface": "eth7"},
)


def command(node: int) -> list[str]:
    spawner = torchrun.plan(JOB)[node].starter
    assert spawner is not None
    return [resolve(text, BINDINGS) for text in spawner.argv]


def test_an_elastic_job_has_this_launcher_and_no_other_job() -> None:
    assert launcher_of(JOB).name == "torchrun"
    assert launcher_of(dataclasses.replace(JOB, min_node_count=0)).name == "pytorch"


def test_every_node_has_a_torchrun_that_meets_the_others_at_node_0() -> None:
    nodes = torchrun.plan(JOB)
    assert [node.starter is not None and node.starter.per_node for node in nodes] == [True] * 3
    assert [[wish.name for wish in node.ports] for node in nodes] == [["rendezvous"], [], []]
    for node in range(3):
        argv = command(node)
        assert argv[:5] == ["/py", "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
        assert {"--rdzv-endpoint=10.0.0.1:29401", "--rdzv-id=x-g1-a1-2", f"--local-addr=10.0.0.{node + 1}"} <= set(argv)
        assert argv[-1] == "--no-python"
        assert f"--rdzv-conf=is_host={'true' if node == 0 else 'false'}" in argv


def test_ranks_keep_their_places_and_are_told_the_rest_by_torchrun() -> None:
    nodes = torchrun.plan(JOB)
    assert [(rank.rank, rank.local_rank) for node in nodes for rank in node.ranks] == [(n, n % 2) for n in range(6)]
    names = {name for node in nodes for rank in node.ranks for name, _ in rank.env}
    assert names == {*pytorch.INTERFACES, pytorch.THREADS}
    spawner = nodes[0].starter
    assert spawner is not None
    told = {pytorch.RANK, pytorch.LOCAL_RANK, pytorch.WORLD_SIZE, pytorch.MASTER_ADDR, pytorch.MASTER_PORT}
    assert all(name.startswith(spawner.keeps) for name in told)
