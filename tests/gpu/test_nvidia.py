"""What only an NVIDIA GPU can show: nvidia-smi in preflight, devices for each node, an NCCL start. `make test-gpu`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from lab import Lab, lines, plan_of
from muster.core.plan import EnvironmentRef, Needs
from muster.core.state import RunState
from muster.core.verdict import Cause
from muster.packaging.environment import lock

pytestmark = pytest.mark.gpu

ALL_REDUCE = """
import os, torch, torch.distributed as dist
torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
dist.init_process_group("nccl", rank=int(os.environ["MUSTER_RANK"]), world_size=int(os.environ["MUSTER_WORLD_SIZE"]))
value = torch.ones(1, device="cuda")
dist.all_reduce(value)
print("sum", int(value.item()), torch.cuda.get_device_name())
dist.destroy_process_group()
"""


def gpu_count() -> int:
    listing = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True
    )
    return len(listing.stdout.split())


@pytest.fixture(scope="session")
def torch_environment(tmp_path_factory: pytest.TempPathFactory) -> EnvironmentRef:
    cache = tmp_path_factory.mktemp("locks")
    return lock.lock_packages(("torch", "numpy"), python=sys.executable, cache=cache, log=print)


def test_preflight_reports_the_devices_and_the_driver(lab: Lab) -> None:
    _, events = lab.run("print('ok')", nodes=1, needs=Needs(gpus=1))
    facts = next(e.data["facts"] for e in events if e.kind == "facts")
    assert len(facts["gpus"]) == 1
    assert facts["driver"]


def test_a_rank_sees_the_devices_of_its_node_and_no_others(lab: Lab) -> None:
    _, events = lab.run("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", nodes=1, needs=Needs(gpus=1))
    assert lines(events) == ["0"]
    _, events = lab.run("import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))", nodes=1)
    assert lines(events) == ["''"], "a job that asked for no GPU sees none"


def test_a_second_node_gets_its_own_devices_or_is_refused(lab: Lab) -> None:
    outcome, events = lab.run("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", nodes=2, needs=Needs(gpus=1))
    if gpu_count() >= 2:
        assert sorted(lines(events)) == ["0", "1"]
    else:
        assert outcome.verdict.cause is Cause.PREFLIGHT
        assert "node 1" in outcome.verdict.summary()


def test_nccl_starts_and_reduces(lab: Lab, torch_environment: EnvironmentRef) -> None:
    count = min(gpu_count(), 2)
    plan = plan_of(ALL_REDUCE, lab.store.uri, nodes=1, ranks=count, needs=Needs(gpus=count))
    ranks = tuple(
        dataclasses.replace(rank, env=(*rank.env, ("LOCAL_RANK", str(rank.local_rank)))) for rank in plan.nodes[0].ranks
    )
    plan = dataclasses.replace(plan, environment=torch_environment, nodes=(dataclasses.replace(plan.nodes[0], ranks=ranks),))
    lab.target.prepare(plan, print)
    outcome, events = lab.wait(lab.submit(plan), limit=300)
    assert outcome.state is RunState.COMPLETED, json.dumps(outcome.verdict.summary() if outcome.verdict else "")
    assert [line.split()[:2] for line in lines(events)] == [["sum", str(count)]] * count
